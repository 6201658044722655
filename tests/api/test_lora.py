"""LoRA runs: what they write loads without erasediff, and every MODEL argument takes them."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import make_squares
from tests.families import _tiny_text

import erasediff
from erasediff import families
from erasediff.api.export import COMFYUI_FILE, SINGLE_FILE, export
from erasediff.api.inputs import load_model
from erasediff.api.purge import purge
from erasediff.cli.main import main
from erasediff.data.sources import build
from erasediff.errors import BadInput
from erasediff.families.lora import PEFT_FILE, PIPELINE_FILE, Lora, read
from erasediff.families.tiny import TINY

SETTINGS = {"rank": 2, "lora_alpha": 3.0, "learning_rate": 1e-1, "max_train_steps": 3, "train_batch_size": 4}
SETTINGS |= {"checkpointing_steps": 2, "quiet": True}
CAPTIONS = ["a cat", "a dog", "the sea", "a hat"]
INPUTS = {
    "sd": {"x": (2, 4, 8, 8), "text": (2, 16, 32)},
    "unet2d": {"x": (2, 1, 8, 8)},
    "dit": {"x": (2, 2, 4, 4)},
}


def captioned():
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    return build("captioned", images, np.arange(40) % 4, class_names=CAPTIONS)


def inputs(name):
    source = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=source) for key, shape in INPUTS[name].items()}


def asked(denoiser, given):
    t, labels = torch.tensor([3, 60]), torch.tensor([0, 2])
    with torch.no_grad():
        return denoiser(given["x"], t, given.get("text", labels), return_dict=False)[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base model and a LoRA run on it, of three families, and what exports make of the one asked in words."""
    root = tmp_path_factory.mktemp("lora")
    data = {"sd": captioned(), "unet2d": make_squares(), "dit": make_squares()}
    pipelines = {"sd": _tiny_text.stable_diffusion(), **{f: TINY[f]().pipeline() for f in ("unet2d", "dit")}}
    for name, pipeline in pipelines.items():
        families.adopt(pipeline).save(root / name / "base")
        target = "class:a cat" if name == "sd" else "class:1"
        run = erasediff.erase(root / name / "base", target, data[name], output_dir=root / name / "run", **SETTINGS)
        save_file(inputs(name), root / name / "inputs.safetensors")
        save_file({"run": asked(run.model.denoiser, inputs(name))}, root / name / "expected.safetensors")
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
    expected = load_file(place / name / "expected.safetensors")["run"]
    assert (expected - plain[f"{name}/base"]).abs().max() > 1e-2  # else nothing here could fail
    assert torch.allclose(plain[what], expected, atol=1e-5)


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


@pytest.mark.parametrize(("name", "file"), [("sd", PIPELINE_FILE), ("unet2d", PEFT_FILE), ("dit", PEFT_FILE)])
def test_the_run_directory_holds_the_lora_and_no_model(place, name, file):
    run = place / name / "run"
    record = json.loads((run / "run.json").read_text())
    assert (run / "lora" / file).is_file()
    assert not (run / "model").exists()
    assert list(record["weights"]) == [file]
    assert (record["lora"]["rank"], record["lora"]["alpha"]) == (2, 3.0)
    assert record["training"]["parameters"] == "attention"
    assert record["base_model"]["source"] == str(place / name / "base")
    assert set(read(run / "lora").layers) == set(record["lora"]["layers"])
    card = (run / "README.md").read_text()
    assert "load_lora_weights" in card
    assert "LoRA: `rank 2, alpha 3`" in card


def test_a_checkpoint_holds_the_adapters_only(place):
    tensors = load_file(place / "sd/run/checkpoints/checkpoint-2/model.safetensors")
    assert tensors
    assert all(".lora_A." in name or ".lora_B." in name for name in tensors)


@pytest.mark.parametrize("name", ["sd", "unet2d", "dit"])
@pytest.mark.parametrize("given", ["run", "run/lora", "lora", "full"])
def test_a_model_argument_takes_a_run_its_lora_and_what_was_exported_whole(place, name, given):
    expected = load_file(place / name / "expected.safetensors")["run"]
    if given == "lora":
        with pytest.raises(BadInput, match="nothing says what it was trained on"):
            load_model(place / name / given)
        return
    model, source, hashes = load_model(place / name / given)
    assert torch.equal(asked(model.denoiser, inputs(name)), expected)
    assert source.name in ("lora", "full")
    assert hashes


@pytest.mark.parametrize("name", ["sd", "unet2d", "dit"])
def test_no_key_of_the_whole_weights_is_an_adapters(place, name):
    for file in (place / name / "full").rglob("*.safetensors"):
        assert not [key for key in load_file(file) if "base_layer" in key or "lora" in key]


def test_sequential_requests_a_lora_on_a_lora_and_whole_weights_on_it(place, tmp_path):
    again = {**SETTINGS, "output_dir": tmp_path / "second"}
    second = erasediff.erase(place / "unet2d/run", "class:2", make_squares(), **again)
    assert second.record["gone"] == ["class:1"]
    assert second.record["base_model"]["source"] == str(place / "unet2d/run/lora")
    assert torch.equal(
        asked(families.load(tmp_path / "second").denoiser, inputs("unet2d")),
        asked(second.model.denoiser, inputs("unet2d")),
    )
    whole = {**SETTINGS, "rank": None, "lora_alpha": None, "output_dir": tmp_path / "third"}
    third = erasediff.erase(tmp_path / "second", "class:3", make_squares(), **whole)
    assert third.record["gone"] == ["class:2", "class:1"]
    assert (tmp_path / "third/model").is_dir()
    assert not (tmp_path / "third/lora").exists()


def test_a_moved_tree_is_found_by_the_way_from_the_run_to_its_base(place, tmp_path):
    shutil.copytree(place / "unet2d", tmp_path / "moved")
    record = json.loads((tmp_path / "moved/run/run.json").read_text())
    record["base_model"]["source"] = str(tmp_path / "elsewhere")
    (tmp_path / "moved/run/run.json").write_text(json.dumps(record))
    expected = load_file(place / "unet2d/expected.safetensors")["run"]
    assert torch.equal(asked(families.load(tmp_path / "moved/run").denoiser, inputs("unet2d")), expected)
    shutil.rmtree(tmp_path / "moved/base")
    with pytest.raises(BadInput, match=r"a LoRA on .*elsewhere, which is gone"):
        families.load(tmp_path / "moved/run")


def test_a_base_that_was_changed_since_is_refused(place, tmp_path):
    shutil.copytree(place / "unet2d", tmp_path / "moved")
    record = json.loads((tmp_path / "moved/run/run.json").read_text())
    record["base_model"]["source"] = str(tmp_path / "moved/base")
    (tmp_path / "moved/run/run.json").write_text(json.dumps(record))
    TINY["unet2d"](seed=1).save(tmp_path / "moved/base")
    with pytest.raises(BadInput, match=r"is not what the LoRA in .* was trained on: unet/.* has changed"):
        families.load(tmp_path / "moved/run")


def test_a_base_handed_over_as_an_object_is_written_merged_beside_the_lora(tmp_path):
    run = erasediff.erase(
        TINY["unet2d"]().pipeline(), "class:1", make_squares(), output_dir=tmp_path / "run", **SETTINGS
    )
    assert run.output == tmp_path / "run/model"
    assert (tmp_path / "run/lora" / PEFT_FILE).is_file()
    expected = asked(run.model.denoiser, inputs("unet2d"))
    assert torch.equal(asked(families.load(tmp_path / "run").denoiser, inputs("unet2d")), expected)
    export(tmp_path / "run", "lora", tmp_path / "lora")
    base = TINY["unet2d"]()
    read(tmp_path / "lora").merge(base.denoiser)
    assert torch.equal(asked(base.denoiser, inputs("unet2d")), expected)


def test_a_run_in_memory_can_be_saved_and_its_pipeline_is_plain(place, tmp_path):
    run = erasediff.erase(place / "sd/base", "class:a cat", captioned(), **SETTINGS)
    expected = load_file(place / "sd/expected.safetensors")["run"]
    assert torch.equal(asked(run.pipeline.unet, inputs("sd")), expected)
    assert not any("base_layer" in key for key in run.pipeline.unet.state_dict())
    run.save(tmp_path / "run")
    assert not (tmp_path / "run/model").exists()
    assert torch.equal(asked(families.load(tmp_path / "run").denoiser, inputs("sd")), expected)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(place, tmp_path):
    first = {**SETTINGS, "max_train_steps": 2, "output_dir": tmp_path / "run"}
    erasediff.erase(place / "dit/base", "class:1", make_squares(), **first)
    run = erasediff.erase(
        place / "dit/base",
        "class:1",
        make_squares(),
        **{**first, "max_train_steps": 3, "resume_from_checkpoint": "latest"},
    )
    expected = load_file(place / "dit/expected.safetensors")["run"]
    cosine = run.record["training"]["lr_scheduler"] == "cosine"
    assert cosine or torch.equal(asked(run.model.denoiser, inputs("dit")), expected)


def test_purge_says_that_the_run_needs_its_base(place, tmp_path):
    shutil.copytree(place / "dit/run", tmp_path / "run")
    removed, notes = purge(tmp_path / "run")
    assert [p.name for p in removed] == ["checkpoints"]
    assert any("cannot do without it" in note for note in notes)
    assert (tmp_path / "run/lora").is_dir()


def test_an_audit_and_a_comparison_take_a_lora_run(place, small_audit, tmp_path):
    asked_ = {"data": make_squares(), "base": place / "unet2d/base", "attacks": ["membership"], "quiet": True}
    found = erasediff.audit(place / "unet2d/run", output_dir=tmp_path / "audit", **asked_)
    assert found.result.target == "class:1"
    assert found.result.find("forget_rate").n == 20
    hashes = json.loads((place / "unet2d/run/run.json").read_text())["weights"]
    assert found.result.setting["model_hashes"]["erased"] in hashes.values()


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


def test_names_of_the_files_that_exports_write(place):
    assert [p.name for p in (place / "sd/comfyui").iterdir()] == [COMFYUI_FILE]
    assert [p.name for p in (place / "sd/single_file").iterdir()] == [SINGLE_FILE]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rank", "99"], "rank 99 is more than layer mid_block.attentions.0.to_q has: 8 at most"),
        (["--rank", "2", "--parameters", "cross_attention"], "names no weight of this UNet2DModel; it has: full"),
        (["--parameters", "cross_attention"], "names no weight of this UNet2DModel; it has: full"),
        (["--rank", "0"], "rank must be at least 1"),
        (["--lora_alpha", "2"], "give a rank"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
def test_bad_input_is_one_line_and_nothing_is_written(place, tmp_path, capsys, flags, said, dry):
    np.savez(tmp_path / "squares.npz", images=make_squares().images[:, 0], labels=make_squares().labels)
    line = ["erase", str(place / "unet2d/base"), "--target", "class:1", "--data", str(tmp_path / "squares.npz")]
    assert main([*line, "--output_dir", str(tmp_path / "run"), *flags, *dry]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_train_takes_no_rank():
    with pytest.raises(BadInput, match="train makes one from nothing; leave out rank"):
        erasediff.train(make_squares(), rank=2, quiet=True)


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
    with pytest.raises(BadInput, match=r"lacks .* weights of a UNet2DConditionModel"):
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


def test_a_single_safetensors_file_is_refused_with_the_command_too(place):
    with pytest.raises(BadInput, match=r"single file.*from_single_file"):
        families.load(place / "sd/single_file" / SINGLE_FILE)
