"""What runs and exports write loads in a process without erasediff, and the states that diffusers saves wrongly."""

import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tests.api._lora_runs import SETTINGS, asked, captioned, expected, inputs, make
from tests.families import _tiny_text

import erasediff
from erasediff import families
from erasediff.api.export import COMFYUI_FILE, SINGLE_FILE, export
from erasediff.cli.main import main
from erasediff.errors import BadInput
from erasediff.families.lora import Lora, read
from erasediff.families.tiny import TINY


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs of three families, and every form that each exports."""
    root = make(tmp_path_factory.mktemp("exports"), "sd", "unet2d", "dit")
    for name in ("sd", "unet2d", "dit"):
        for form in families.family_of(root / name / "base").exports:
            export(root / name / "run", form, root / name / form)
    return root


PLAIN = """
import sys, warnings
sys.modules["erasediff"] = None  # whoever imports it now fails
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel, StableDiffusionPipeline, UNet2DModel
from peft import PeftModel
from safetensors.torch import load_file, save_file

def asked(denoiser, given, **options):
    t, labels = torch.tensor([3, 60]), torch.tensor([0, 2])
    with torch.no_grad():
        return denoiser(given["x"], t, given.get("text", labels), return_dict=False, **options)[0]

root, found = sys.argv[1], {}
given = load_file(f"{root}/sd/inputs.safetensors")
pipe = StableDiffusionPipeline.from_pretrained(f"{root}/sd/base", safety_checker=None)
found["sd/base"] = asked(pipe.unet, given)
pipe.load_lora_weights(f"{root}/sd/run/lora", adapter_name="erased")
found["sd/run"] = asked(pipe.unet, given)
found["sd/half by scale"] = asked(pipe.unet, given, cross_attention_kwargs={"scale": 0.5})
pipe.set_adapters("erased", 0.5)
found["sd/half by set_adapters"] = asked(pipe.unet, given)
pipe.set_adapters("erased", 0.0)
found["sd/none by set_adapters"] = asked(pipe.unet, given)
pipe.unload_lora_weights()
found["sd/unloaded"] = asked(pipe.unet, given)
for form, options in {"lora": {}, "comfyui": {"weight_name": "comfyui_lora.safetensors"}}.items():
    pipe.load_lora_weights(f"{root}/sd/{form}", **options)
    found[f"sd/{form}"] = asked(pipe.unet, given)
    pipe.unload_lora_weights()
found["sd/full"] = asked(StableDiffusionPipeline.from_pretrained(f"{root}/sd/full", safety_checker=None).unet, given)
single = StableDiffusionPipeline.from_single_file(
    f"{root}/sd/single_file/model.safetensors", config=f"{root}/sd/base", local_files_only=True)
found["sd/single_file"] = asked(single.unet, given)
found["text"] = torch.cat([p.encode_prompt("a cat", "cpu", 1, False)[0] for p in (single, pipe)])
found["vae"] = torch.cat([p.vae.decode(given["x"][:1]).sample for p in (single, pipe)]).detach()
for name, part, kind in (("unet2d", "unet", UNet2DModel), ("dit", "transformer", DiTTransformer2DModel)):
    given = load_file(f"{root}/{name}/inputs.safetensors")
    base = kind.from_pretrained(f"{root}/{name}/base/{part}").eval()
    found[f"{name}/base"] = asked(base, given)
    found[f"{name}/full"] = asked(kind.from_pretrained(f"{root}/{name}/full/{part}").eval(), given)
    found[f"{name}/run"] = asked(PeftModel.from_pretrained(base, f"{root}/{name}/run/lora"), given)
save_file({k: v.contiguous() for k, v in found.items()}, f"{root}/found.safetensors")
"""


@pytest.fixture(scope="module")
def plain(place):
    """What a process that cannot import erasediff makes of it."""
    program = [sys.executable, "-I", "-W", "ignore", "-c", PLAIN, str(place)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # No LoRA for the text encoder is as it should be; of other keys, too many or too few, diffusers speaks as well.
    said = [s for s in done.stderr.splitlines() if "key" in s.lower() and "prefix='text_encoder'" not in s]
    assert not said, said
    return load_file(place / "found.safetensors")


FORMS = ["sd/run", "sd/lora", "sd/comfyui", "sd/full", "sd/single_file", "unet2d/run", "unet2d/full"]


@pytest.mark.parametrize("what", [*FORMS, "dit/run", "dit/full"])
def test_in_a_process_without_erasediff_it_predicts_what_the_run_predicts(place, plain, what):
    name = what.partition("/")[0]
    wanted = expected(place, name)
    assert (wanted - plain[f"{name}/base"]).abs().max() > 1e-2  # else nothing here could fail
    assert torch.allclose(plain[what], wanted, atol=1e-5)


def test_its_strength_can_be_set_without_erasediff(place, plain):
    base, lora = families.load(place / "sd/base"), read(place / "sd/run/lora")
    Lora(lora.rank, lora.alpha / 2, lora.tensors).merge(base.denoiser)
    half = asked(base.denoiser, inputs("sd"))
    assert torch.allclose(plain["sd/half by scale"], half, atol=1e-5)
    assert torch.allclose(plain["sd/half by set_adapters"], half, atol=1e-5)
    assert torch.equal(plain["sd/none by set_adapters"], plain["sd/base"])
    assert torch.equal(plain["sd/unloaded"], plain["sd/base"])


def test_the_single_file_has_the_same_text_encoder_and_vae(plain):
    for what in ("text", "vae"):
        one, other = plain[what].chunk(2)
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["sd", "unet2d", "dit"])
def test_no_key_of_the_whole_weights_is_an_adapters(place, name):
    for file in (place / name / "full").rglob("*.safetensors"):
        assert not [key for key in load_file(file) if "base_layer" in key or "lora" in key]


@pytest.mark.parametrize(
    ("name", "to", "said"),
    [
        ("unet2d/run", "comfyui", "family unet2d cannot be exported to comfyui; it can to: full, lora"),
        ("dit/run", "single_file", "family dit cannot be exported to single_file; it can to: full, lora"),
        ("sd/base", "lora", "holds whole weights and no LoRA; export it --to full"),
        ("sd/base", "comfyui", "holds whole weights and no LoRA; export it --to full"),
        ("sd/base", "loar", "did you mean lora"),
    ],
)
def test_exports_that_cannot_be_had(place, tmp_path, capsys, name, to, said):
    assert main(["export", str(place / name), "--to", to, "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_no_export_is_not_overwritten(place, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("x")
    run = shutil.copytree(place / "unet2d/run", tmp_path / "run")
    for source, out, said in (
        (place / "unet2d/run", tmp_path / "mine", "holds precious.txt, which is no export"),
        (run, run, "holds the model that is exported"),
    ):
        assert main(["export", str(source), "--to", "full", "--output_dir", str(out), "--overwrite"]) == 2
        assert said in capsys.readouterr().err
    assert (tmp_path / "mine" / "precious.txt").exists() and (run / "run.json").exists()
    for _ in range(2):
        assert main(["export", str(run), "--to", "full", "--output_dir", str(tmp_path / "x"), "--overwrite"]) == 0


def test_names_of_the_files_that_exports_write(place):
    assert [p.name for p in (place / "sd/comfyui").iterdir()] == [COMFYUI_FILE]
    assert [p.name for p in (place / "sd/single_file").iterdir()] == [SINGLE_FILE]


def attached(how):
    """A pipeline with a LoRA, in one of the states in which diffusers saves weights that it reads as random ones."""
    pipeline = _tiny_text.stable_diffusion()
    from peft import LoraConfig

    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    how(pipeline)
    return pipeline


@pytest.mark.parametrize(
    "how",
    [lambda p: None, lambda p: p.unet.delete_adapters("default"), lambda p: p.fuse_lora()],
    ids=["attached", "deleted", "fused alone"],
)
def test_the_states_that_diffusers_saves_wrongly_are_refused(how, tmp_path):
    pipeline = attached(how)
    with pytest.raises(BadInput, match="LoRA is attached to unet of the pipeline"):
        erasediff.erase(pipeline, "class:a cat", captioned(), output_dir=tmp_path / "run", **SETTINGS)
    pipeline.save_pretrained(tmp_path / "saved")
    assert any("base_layer" in key for key in load_file(tmp_path / "saved/unet/diffusion_pytorch_model.safetensors"))
    with pytest.raises(BadInput, match=r"lacks weights of a UNet2DConditionModel: "):
        families.load(tmp_path / "saved")


def test_fused_and_unloaded_it_is_a_plain_pipeline():
    pipeline = attached(lambda p: (p.fuse_lora(), p.unload_lora_weights()))
    assert families.adopt(pipeline).family == "stable_diffusion"


@pytest.mark.parametrize("family", ["unet2d", "dit"])
def test_so_are_models_that_have_no_add_adapter(family, tmp_path):
    from peft import LoraConfig, inject_adapter_in_model

    pipeline = TINY[family]().pipeline()
    denoiser = pipeline.components["unet" if family == "unet2d" else "transformer"]
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q"]), denoiser)
    with pytest.raises(BadInput, match="LoRA is attached"):
        families.adopt(pipeline)
    pipeline.save_pretrained(tmp_path / "saved")
    with pytest.raises(BadInput, match="lacks weights"):
        families.load(tmp_path / "saved")


@pytest.mark.parametrize("suffix", families.PICKLES)
def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(BadInput, match=r"is a pickle, .* never read here; .*from_single_file\('.*model\..*'\)"):
        families.load(path)
