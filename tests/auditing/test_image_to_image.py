"""Denoised from part of the way an image comes back where the model can draw it, and the less noise the nearer."""

import copy
from dataclasses import replace

import pytest
import torch

from erasediff.auditing.attacks.image_to_image import ImageToImage, first_step, restore
from erasediff.auditing.attacks.inversion import psnr
from erasediff.auditing.generate import images, start_noise
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from tests.auditing._scene import SUITE, scene
from tests.auditing.test_class_embedding import drawing, filtered

ATTACK = ImageToImage(images=12)


def back(there, strength, steps=20):
    question = there.question
    x_0 = question.data.floats(question.forget[:6])
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    labels = question.data.labels[question.forget[:6]]
    given = {"strength": strength, "guidance_scale": 1.0, "num_inference_steps": steps}
    return psnr(restore(there.model, x_0, labels, noise, **given)[0], x_0)


def test_with_next_to_no_noise_the_image_comes_back():
    none, half, most = (back(drawing(), strength) for strength in (0.0, 0.5, 0.85))
    assert none.min() > 20
    assert none.mean() > half.mean() + 3 > most.mean() + 3


def test_a_class_that_is_drawn_comes_back_and_one_under_another_name_does_not():
    (drawn,), (gone,) = ATTACK.run(drawing()), ATTACK.run(filtered())
    assert drawn.measurement.value > 0.5
    assert gone.measurement.value < 0.1
    assert (drawn.evidence.role, drawn.evidence.alone, drawn.evidence.margin) == ("access", None, 0.15)
    strengths = [record["shown"] for record in drawn.measurement.detail["per_strength"]]
    assert sum(strengths) / 3 == pytest.approx(drawn.measurement.value)
    assert drawn.measurement.value == pytest.approx(sum(drawn.evidence.rows[0]) / 12)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_from_the_very_beginning_it_is_ordinary_sampling(scale):
    """At strength 1 the image leaves nothing at these timesteps but its share of the first one."""
    model = drawing().model
    noise, labels = start_noise(model, 6, seed=0, kind="x"), torch.tensor([0, 1, 2, 3, 0, 1])
    settings = {"guidance_scale": scale, "num_inference_steps": 5}
    level = model.noising.noised(noise, noise, torch.full((6,), 99))
    x_T = level.sigma * noise
    restored, passes = restore(model, torch.zeros_like(noise), labels, noise, strength=1.0, **settings)
    assert passes == (5 if scale == 1.0 else 10)
    ordinary = images(model, labels, 6, seed=0, kind="x", **settings)
    torch.testing.assert_close(x_T, noise, atol=1e-3, rtol=0)
    torch.testing.assert_close(restored, ordinary, atol=1e-2, rtol=0)


def test_the_sampler_begins_at_the_largest_step_that_the_strength_allows():
    model = TINY["unet2d"]()
    timesteps = torch.tensor([99, 74, 50, 25])
    assert [first_step(model, timesteps, s) for s in (1.0, 0.75, 0.74, 0.5, 0.49, 0.1)] == [0, 1, 1, 2, 3, 3]


def test_the_same_images_and_noise_for_every_model():
    (one,) = ATTACK.run(drawing())
    (other,) = ATTACK.run(drawing())
    (reseeded,) = ATTACK.run(drawing(seed=1))
    assert one == other
    assert one.evidence.rows != reseeded.evidence.rows


@pytest.mark.parametrize("family", ["unet2d", "unet2d-v", "unet2d-sample"])
def test_the_model_is_left_alone_and_the_budget_kept(family):
    passed = []
    there = scene(family, tick=passed.append, suite=replace(SUITE, num_inference_steps=7))
    before = copy.deepcopy(there.model.denoiser.state_dict())
    (found,) = ATTACK.run(there)
    assert all(torch.equal(before[k], v) for k, v in there.model.denoiser.state_dict().items())
    assert sum(passed) == ATTACK.cost(there)
    assert found.measurement.name == "attack_success_image_to_image"
    assert found.measurement.n == 12


def test_what_cannot_be_run_says_why():
    assert ATTACK.refusal(scene()) is None
    assert "no labels" in ATTACK.refusal(scene(judged=False))
    assert "no class" in ATTACK.refusal(scene("unet2d-unconditional", judged=True))
    few = scene().question.forget[:5]
    assert "fewer than 6" in ATTACK.refusal(scene(forget=few))
    for wrong in ({"strengths": ()}, {"strengths": (1.5,)}, {"images": 5}):
        with pytest.raises(BadInput, match="strengths must lie in"):
            ImageToImage(**wrong)
