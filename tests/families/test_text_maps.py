"""The maps that read text: on real pipelines they are what the closed-form edit of words acts through."""

import pytest
import torch
from torch import nn

from erasediff.families import adopt
from erasediff.methods.base import Concepts
from erasediff.methods.uce import UCE
from tests.families import _tiny_flux_2, _tiny_text
from tests.families._tiny_qwen_image import qwen_image
from tests.families._tiny_z_image import z_image

PIPELINES = {
    "stable_diffusion": _tiny_text.stable_diffusion,
    "stable_diffusion_xl": _tiny_text.stable_diffusion_xl,
    "stable_diffusion_3": _tiny_text.stable_diffusion_3,
    "flux": _tiny_text.flux,
    "flux_2": _tiny_flux_2.flux_2,
    "pixart": _tiny_text.pixart,
    "sana": _tiny_text.sana,
    "qwen_image": qwen_image,
    "z_image": z_image,
}


@pytest.fixture(scope="module", params=list(PIPELINES))
def model(request):
    return adopt(PIPELINES[request.param]()).with_prompts(["cat", "dog", "hat"])


def test_they_are_weights_of_linear_layers_that_take_the_embedding(model):
    maps, modules = model.text_maps(model.denoiser), dict(model.denoiser.named_modules())
    assert maps
    for name, embedding in maps:
        layer = modules[name.removesuffix(".weight")]
        assert isinstance(layer, nn.Linear)
        assert layer.in_features == model.table.embeddings[embedding].shape[-1]


def test_what_is_said_reaches_the_prediction_through_them_alone(model):
    """With all of them at zero the words no longer matter, but for SDXL's pooled text."""
    for name, _ in model.text_maps(model.denoiser):
        nn.init.zeros_(dict(model.denoiser.named_parameters())[name])
    x_t = torch.randn(1, *model.encode(torch.zeros(1, *model.image_shape)).shape[1:])
    with torch.no_grad():
        cat, dog = (model.ask(model.denoiser, x_t, torch.tensor([3]), torch.tensor([c])) for c in (0, 1))
    assert torch.allclose(cat, dog, atol=1e-6) == (model.family != "stable_diffusion_xl")


# Sana's 300 rows a prompt are more than the 32 dimensions of its miniature can tell apart.
@pytest.mark.parametrize("family", [name for name in PIPELINES if name != "sana"])
def test_an_edit_answers_the_erased_prompt_as_the_other_and_keeps_the_third(family):
    model = adopt(PIPELINES[family]()).with_prompts(["cat", "dog", "hat"])
    concepts = Concepts(erased=(0,), kept=(1, 2, model.conditions.null_label), instead={0: 1})
    edited = UCE(ridge=1e-6).edit(model, concepts)
    before = {n: p.detach().clone() for n, p in model.denoiser.named_parameters() if n in edited}
    assert set(edited) == {name for name, _ in model.text_maps(model.denoiser)}
    for name, embedding in model.text_maps(model.denoiser):
        rows = model.text_rows(model.denoiser, embedding).detach()
        rows = rows.flatten(1, -2) if rows.dim() > 2 else rows
        was, now = rows @ before[name].T, rows @ edited[name].T
        far = (was[0] - was[1]).norm()
        assert (now[0] - was[1]).norm() < 0.2 * far and (now[2] - was[2]).norm() < 0.2 * far
