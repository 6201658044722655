"""Attacks and targets that were written for preserved variance, on a model of flow matching."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from erasediff.auditing.attacks.image_to_image import ImageToImage, first_step, restore
from erasediff.auditing.attacks.inversion import denoised, inverted
from erasediff.auditing.attacks.scores import SCORES, denoising_losses
from erasediff.auditing.drawing import Subject
from erasediff.families.base import ClassConditions
from erasediff.families.flow import euler
from erasediff.families.noising import FlowNoising
from erasediff.families.tiny import unet2d
from erasediff.families.unet2d import UNet2D
from erasediff.methods.redirect import posterior
from tests.auditing._scene import question, scene

POINT = torch.linspace(-0.8, 0.8, 64).reshape(1, 1, 8, 8)


@dataclass
class FlowUNet(UNet2D):
    """A miniature that is noised, asked and drawn from as models of flow matching are."""

    def ask(self, denoiser, x_t, t, condition):
        return super().ask(denoiser, x_t, self.noising.timesteps(t), condition)

    def sampler(self, num_inference_steps):
        return euler(self.scheduler, num_inference_steps, mu=0.0)


class OnePoint(FlowUNet):
    """The exact denoiser of a data set of one image."""

    def ask(self, denoiser, x_t, t, condition):
        return (x_t - POINT) / self.noising.noised(x_t, x_t, t).sigma


def made(kind, shift=3.0):
    scheduler, base = FlowMatchEulerDiscreteScheduler(shift=shift), unet2d()
    noising = FlowNoising.of(scheduler)
    return kind(base.denoiser, scheduler, ClassConditions(4, 4), base.class_names, noising)


def noise(count=3, seed=1):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_inversion_and_back_is_exact_where_lines_are_straight(steps):
    """A thousand steps include the last, where nothing is left of the image: nothing may be divided by its share."""
    model, labels = made(OnePoint), torch.zeros(3, dtype=torch.long)
    found = denoised(model, model.denoiser, noise(), labels, steps)
    assert torch.allclose(found, POINT.expand_as(found), atol=1e-4)
    x = inverted(model, model.denoiser, POINT.expand(3, -1, -1, -1), labels, steps)
    assert torch.isfinite(x).all()
    assert torch.allclose(denoised(model, model.denoiser, x, labels, steps), found, atol=1e-4)


@pytest.mark.parametrize("strength", [0.0, 0.4, 0.85, 1.0])
def test_an_image_is_noised_to_the_share_that_was_asked_for_and_restored(strength):
    """The sampler's timesteps are no rows of the table: under a shift of 3, row 850 has 94 % of noise."""
    model, labels = made(OnePoint), torch.zeros(3, dtype=torch.long)
    timesteps = model.sampler(20).timesteps
    begin = timesteps[first_step(model, timesteps, strength)]
    assert begin <= max(strength * 1000, timesteps[-1])
    seen, x_0 = [], torch.zeros(3, 1, 8, 8)
    model.ask = lambda denoiser, x, t, c: seen.append((x, t)) or OnePoint.ask(model, denoiser, x, t, c)
    options = {"strength": strength, "guidance_scale": 1.0, "num_inference_steps": 20}
    drawn, passes = restore(model, x_0, labels, noise(), **options)
    assert torch.allclose(drawn, POINT.expand_as(drawn), atol=1e-4)
    assert passes == len(seen)
    x, t = seen[0]
    assert torch.equal(t, begin.expand(3))
    assert torch.allclose(x, begin / 1000 * noise(), atol=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_every_membership_score_is_finite_and_tells_images_apart(name):
    images, labels = noise(6).clamp(-1, 1), torch.arange(6) % 4
    scores = SCORES[name](made(FlowUNet), images, labels, seed=0, at=(0.05, 0.1))
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 6


def test_the_exact_denoiser_has_the_least_loss_on_its_own_image():
    images = torch.cat([POINT, noise(2)])
    losses = denoising_losses(made(OnePoint), images, torch.zeros(3, dtype=torch.long), seed=0)
    assert losses[0] < 1e-6 < losses[1:].min()


def test_the_posterior_of_one_neighbour_is_that_neighbour_and_leads_there_straight():
    model = made(OnePoint)
    noisy = model.noising.noised(torch.zeros(4, 1, 8, 8), noise(4), torch.tensor([0, 10, 500, 999]))
    weights, x_0 = posterior(noisy, POINT.expand(4, 1, 1, 8, 8))
    assert torch.equal(weights, torch.ones(4, 1))
    led = (noisy.x_t - noisy.signal * x_0) / noisy.sigma
    target = model.noising.target(replace(noisy, x_0=x_0, noise=led))
    assert torch.allclose(noisy.sigma * target, noisy.x_t - POINT, atol=1e-5)


def test_the_posterior_is_that_of_bayes():
    """Two images, x_t drawn from the first: p(first | x_t) from the two normal densities."""
    model, pair = made(FlowUNet), torch.cat([POINT, -POINT])[None]
    noisy = model.noising.noised(POINT, noise(1), torch.tensor([900]))
    weights, _ = posterior(noisy, pair)
    normal = torch.distributions.Normal(noisy.signal * pair[0], noisy.sigma)
    assert torch.allclose(weights[0], normal.log_prob(noisy.x_t).flatten(1).sum(1).softmax(0), atol=1e-4)


def test_the_attack_runs_and_says_where_it_began():
    base = scene()
    found = ImageToImage(images=6, strengths=(0.5,)).run(replace(base, model=made(FlowUNet)))
    assert 0 <= found[0].measurement.value <= 1
    assert found[0].measurement.detail["per_strength"][0]["first_timestep"] <= 500


def test_models_that_differ_in_their_shift_only_are_kept_apart():
    """Else drawings of the one would be taken from the cache for the other."""
    prints = {Subject("erased", made(FlowUNet, shift=shift), question()).fingerprint for shift in (1.0, 3.0, 3.0)}
    assert len(prints) == 2
