"""A pipeline in a single safetensors file: what diffusers converts is what was written, and what is none is refused."""

import json
import re
import shutil

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from erasediff import families
from erasediff.errors import BadInput
from erasediff.families import hub, one_file, single_file, single_file_xl
from erasediff.families.tiny import TINY
from erasediff.files import sha256
from tests.families import _tiny_text
from tests.families._tiny_z_image import z_image

MADE = {
    "stable_diffusion": (_tiny_text.stable_diffusion, single_file),
    "stable_diffusion_xl": (_tiny_text.stable_diffusion_xl, single_file_xl),
}
ALONE = {"flux": _tiny_text.flux, "stable_diffusion_3": _tiny_text.stable_diffusion_3, "z_image": z_image}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """NAME.safetensors and the directory NAME of each; of ALONE the transformer by itself, by diffusers' names."""
    root = tmp_path_factory.mktemp("files")
    for name, (build, writer) in MADE.items():
        model = families.adopt(build())
        model.save(root / name)
        writer.write(model, root / f"{name}.safetensors")
    for name, build in ALONE.items():
        model = families.adopt(build())
        model.save(root / name)
        save_file(model.denoiser.state_dict(), root / f"{name}.safetensors")
    return root


def said(model, prompts=("a cat", "a dog")):
    asked = model.with_prompts(prompts)
    given = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, *asked.encode(torch.zeros(2, *asked.image_shape)).shape[1:], generator=given), [3, 60]
    with torch.no_grad():
        return asked.ask(asked.denoiser, x, torch.tensor(t), torch.tensor([0, 2])), asked.decode(x)


@pytest.mark.parametrize("name", [*MADE, *ALONE])
def test_it_answers_as_the_directory_does(place, name):
    file, directory = place / f"{name}.safetensors", place / name
    model = families.load(file, directory)
    assert model.family == name == families.family_of(file, directory).name
    for one, other in zip(said(model), said(families.load(directory)), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert not any(p.dtype != torch.float32 for p in model.denoiser.parameters())


def test_half_precision_is_read_as_float32(place, tmp_path):
    whole = load_file(place / "stable_diffusion.safetensors")
    save_file({k: v.half() for k, v in whole.items()}, tmp_path / "half.safetensors")
    model = families.load(tmp_path / "half.safetensors", place / "stable_diffusion")
    weights = families.load(place / "stable_diffusion").denoiser.state_dict()
    assert all(torch.equal(v, weights[k].half().float()) for k, v in model.denoiser.state_dict().items())


def test_hashes_are_of_the_file_and_of_parts_that_it_lacks(place):
    file, directory = place / "stable_diffusion_xl.safetensors", place / "stable_diffusion_xl"
    assert families.hashes(file, directory) == {file.name: sha256(file)}
    file, directory = place / "flux.safetensors", place / "flux"
    beside = ["vae/diffusion_pytorch_model", "text_encoder/model", "text_encoder_2/model"]
    assert families.hashes(file, directory) == {
        file.name: sha256(file),
        **{f"{name}.safetensors": sha256(directory / f"{name}.safetensors") for name in beside},
    }


@pytest.fixture
def stand_in(place, monkeypatch, tmp_path):
    """The Hub, with the configuration of the tiny Stable Diffusion under whatever id is asked; what was asked."""
    commit = tmp_path / "snapshots" / ("0123456789" * 4)
    shutil.copytree(place / "stable_diffusion", commit, ignore=shutil.ignore_patterns("*.safetensors"))
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **o: asked.append((name, o)) or str(commit))
    return asked


def test_the_configuration_is_the_one_that_diffusers_takes_for_the_keys(place, stand_in):
    model = families.load(place / "stable_diffusion.safetensors")
    assert torch.equal(said(model)[0], said(families.load(place / "stable_diffusion"))[0])
    patterns = ["*.json", "*/merges.txt", "*/spiece.model", "*/chat_template.jinja"]
    asked = {"revision": None, "allow_patterns": patterns}  # no weights: the file has all
    assert stand_in == [("stable-diffusion-v1-5/stable-diffusion-v1-5", asked)]


def test_a_hub_id_as_configuration_brings_the_parts_that_the_file_lacks(place, stand_in, tmp_path):
    whole = load_file(place / "stable_diffusion.safetensors")
    without = {k: v for k, v in whole.items() if not k.startswith("first_stage_model.")}
    save_file(without, tmp_path / "part.safetensors")
    with pytest.raises(BadInput, match=r"holds no vae, and it cannot be read .*vae/.*is missing.*--model_config DIR"):
        families.load(tmp_path / "part.safetensors", "owner/name@v2")
    assert [(name, options["revision"]) for name, options in stand_in] == [("owner/name", "v2")] * 2
    assert stand_in[1][1]["allow_patterns"] == [*hub.CONFIGURATION, "vae/*.safetensors"]


def test_without_network_and_configuration_the_wanted_id_is_named(place):
    with pytest.raises(BadInput) as refused:
        families.load(place / "stable_diffusion.safetensors")
    assert re.search(
        r"stable_diffusion\.safetensors does not say how it is built, and what diffusers asks, "
        r"stable-diffusion-v1-5/stable-diffusion-v1-5, cannot be had from the Hub: .*; give --model_config DIR\|HUB_ID",
        str(refused.value),
    )
    assert "\n" not in str(refused.value)


def test_types_are_told_by_the_keys_without_reading_the_weights(tmp_path):
    key = "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"
    names = {key: torch.empty(8, device="meta"), "model.diffusion_model.out.2.bias": torch.empty(4, device="meta")}
    assert one_file.inferred(tmp_path, names) == "stabilityai/stable-diffusion-xl-base-1.0"
    flux = {"double_blocks.0.img_attn.norm.key_norm.scale": torch.empty(8, device="meta")}
    assert one_file.inferred(tmp_path, flux) == "black-forest-labs/FLUX.1-schnell"


KEYS = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: {"weight": torch.zeros(2)}, r"holds no pipeline that diffusers knows by its keys \(.*weight\)"),
        (lambda w: {}, "holds no pipeline that diffusers knows by its keys"),
        (
            lambda w: {"unet.down.lora_A.weight": torch.zeros(2)},
            "is a LoRA, a change of a model and no model by itself",
        ),
    ],
)
def test_keys_of_no_pipeline(tmp_path, change, said):
    save_file(change({}), tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match=said):
        families.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda w: {"weight": torch.zeros(2)},
            "is no StableDiffusionPipeline as .* configures it: Failed to load UNet2D",
        ),
        (lambda w: {k: v for k, v in w.items() if k != KEYS}, "is no StableDiffusionPipeline as .*: it lacks weights"),
        (
            lambda w: {**w, KEYS: torch.zeros(16, 9, 3, 3)},
            r"is no StableDiffusionPipeline as .*conv_in.*\[16, 9, 3, 3\]",
        ),
        (lambda w: {**w, KEYS: w[KEYS] * torch.nan}, "holds weights that are not finite"),
        (
            lambda w: {k: v for k, v in w.items() if not k.endswith("final_layer_norm.bias")},
            r"text_encoder of .* lacks weights of a CLIPTextModel: 1, the first is .*final_layer_norm\.bias",
        ),
    ],
)
def test_keys_of_another_or_half_a_pipeline(place, tmp_path, change, said):
    save_file(change(load_file(place / "stable_diffusion.safetensors")), tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match=said) as refused:
        families.load(tmp_path / "other.safetensors", place / "stable_diffusion")
    assert "\n" not in str(refused.value)


def test_other_refusals(place, tmp_path):
    file = place / "stable_diffusion.safetensors"
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(BadInput, match="cannot be read as safetensors"):
        families.load(tmp_path / "text.safetensors", place / "stable_diffusion")
    with pytest.raises(BadInput, match=r"model_config .*nowhere is no pipeline directory"):
        families.load(file, tmp_path / "nowhere")
    with pytest.raises(BadInput, match="model_config 'some/where' is no path here, and cannot be had from the Hub"):
        families.load(file, "some/where")
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(BadInput, match=r"is no model; of single files those are read that end in \.safetensors"):
        families.load(tmp_path / "model.gguf")


def test_families_that_diffusers_cannot_read_so_are_refused_with_those_that_it_can(place, tmp_path):
    TINY["dit"]().save(tmp_path / "dit")
    with pytest.raises(BadInput) as refused:
        families.load(place / "stable_diffusion.safetensors", tmp_path / "dit")
    read = ["Flux", "StableDiffusion3", "StableDiffusion", "StableDiffusionXL", "ZImage"]
    listed = ", ".join(f"{name}Pipeline" for name in read)
    assert f"DiTPipeline, which diffusers reads from directories only; from a single file it reads: {listed};" in str(
        refused.value
    )
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KolorsPipeline"}))
    with pytest.raises(BadInput, match="is a KolorsPipeline pipeline, which no family reads"):
        families.load(place / "stable_diffusion.safetensors", tmp_path)


def test_a_family_that_is_said_to_read_a_single_file_can(place):
    import diffusers

    for family in families.FAMILIES.values():
        for pipeline in family.pipelines:
            able = hasattr(getattr(diffusers, pipeline, None), "from_single_file")
            assert able == (family.load_file is not None), pipeline


def test_without_its_t5_a_model_is_read_and_that_is_said(place, tmp_path):
    shutil.copytree(place / "stable_diffusion_3", tmp_path / "config")
    (tmp_path / "config/text_encoder_3/model.safetensors").unlink()
    with pytest.warns(UserWarning, match="has the text_encoder_3: the model is read without it"):
        model = families.load(place / "stable_diffusion_3.safetensors", tmp_path / "config")
    assert model.parts["text_encoder_3"] is None


def test_the_error_of_no_network_is_the_hubs(monkeypatch, place):
    def offline(name, **options):
        raise LocalEntryNotFoundError("not in the cache\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(BadInput, match=r"cannot be had from the Hub: not in the cache; give"):
        families.load(place / "stable_diffusion.safetensors")
