"""LoRAs of the families asked in words: plain diffusers loads them on the base and predicts what the run did."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.families import _tiny_flux_2, _tiny_text
from tests.families._tiny_qwen_image import qwen_image
from tests.families._tiny_z_image import z_image

import erasediff
from erasediff import families
from erasediff.api.export import export
from erasediff.data.images import build
from erasediff.families import FAMILIES

MADE = {
    "stable_diffusion_xl": _tiny_text.stable_diffusion_xl,
    "stable_diffusion_3": _tiny_text.stable_diffusion_3,
    "flux": _tiny_text.flux,
    "flux_2": _tiny_flux_2.flux_2,
    "sana": _tiny_text.sana,
    "qwen_image": qwen_image,
    "z_image": z_image,
}
CAPTIONS = ["a cat", "a dog", "the sea", "a hat"]
SETTINGS = {"rank": 2, "lora_alpha": 3.0, "learning_rate": 1e-1, "max_train_steps": 2, "train_batch_size": 4}


@pytest.fixture(scope="module", params=list(MADE))
def run(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    families.adopt(MADE[request.param]()).save(place / "base")
    side = 32 if request.param == "sana" else 16
    images = np.random.default_rng(0).integers(0, 256, (40, side, side, 3), dtype=np.uint8)
    data = build("captioned", images, np.arange(40) % 4, class_names=CAPTIONS)
    options = {"output_dir": place / "run", "checkpointing_steps": 0, "quiet": True, **SETTINGS}
    return erasediff.erase(place / "base", "class:a cat", data, **options)


def said(model):
    asked = model.with_prompts(CAPTIONS)
    shape = asked.encode(torch.zeros(1, *asked.image_shape)).shape[1:]
    x_t = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return asked.ask(asked.denoiser, x_t, torch.tensor([3, 60]), torch.tensor([0, 2]))


def test_plain_diffusers_loads_the_lora_and_predicts_the_same(run):
    place = run.directory.parent
    pipe = type(run.pipeline).from_pretrained(place / "base")
    before = said(families.adopt(pipe))
    pipe.load_lora_weights(place / "run" / "lora")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert torch.allclose(said(families.adopt(pipe)), said(run.model), atol=1e-5)
    assert (said(run.model) - before).abs().max() > 1e-3


def test_what_a_family_says_it_exports_it_exports(run, tmp_path):
    name = run.model.family
    plain = {key: set() for key in ("flux_2", "qwen_image", "sana", "z_image")}
    more = {"stable_diffusion_xl": {"comfyui", "single_file"}, **plain}.get(name, {"comfyui"})
    assert set(FAMILIES[name].exports) == {"full", "lora"} | more
    for form in FAMILIES[name].exports:
        export(run.directory, form, tmp_path / form)
    assert torch.allclose(said(families.load(tmp_path / "full")), said(run.model), atol=1e-5)
    if "comfyui" not in more:
        return
    (file,) = (tmp_path / "comfyui").rglob("*.safetensors")
    tensors, part = load_file(file), "unet" if name.endswith("xl") else "transformer"
    assert all(key.startswith(f"lora_{part}_") for key in tensors)
    assert {float(v) for k, v in tensors.items() if k.endswith(".alpha")} == {3.0}
