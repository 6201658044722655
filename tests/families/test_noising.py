"""Three views of one thing: what each prediction type says must agree."""

import pytest
import torch
from diffusers import DDPMScheduler

from erasediff.errors import BadInput
from erasediff.families.noising import VIEWS, Noising

TYPES = sorted(VIEWS)


def noising(prediction_type):
    return Noising.of(DDPMScheduler(num_train_timesteps=50, prediction_type=prediction_type))


def batch(seed=0, size=16):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(size, 2, 4, 4, generator=generator)  # noqa: E731
    return draw(), draw(), torch.randint(50, (size,), generator=generator)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_a_perfect_prediction_implies_the_noise_that_was_added(prediction_type):
    table = noising(prediction_type)
    noisy = table.noised(*batch())
    implied = table.implied_noise(table.target(noisy), noisy)
    assert torch.allclose(implied, noisy.noise, atol=1e-3)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_noising_and_targets_agree_with_diffusers(prediction_type):
    scheduler = DDPMScheduler(num_train_timesteps=50, prediction_type=prediction_type)
    x_0, noise, t = batch()
    noisy = Noising.of(scheduler).noised(x_0, noise, t)
    assert torch.allclose(noisy.x_t, scheduler.add_noise(x_0, noise, t), atol=1e-6)
    expected = {"epsilon": noise, "sample": x_0, "v_prediction": scheduler.get_velocity(x_0, noise, t)}
    assert torch.allclose(Noising.of(scheduler).target(noisy), expected[prediction_type], atol=1e-6)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_weighted_noise_error_is_bounded_by_the_prediction_error(prediction_type):
    """weight * |implied(a) - implied(b)|^2 <= |a - b|^2 at every t, so no step's loss explodes."""
    table = noising(prediction_type)
    x_0, noise, _ = batch(size=50)
    noisy = table.noised(x_0, noise, torch.arange(50))
    a, b = torch.randn_like(x_0), torch.randn_like(x_0)
    error = table.noise_weight(noisy) * (table.implied_noise(a, noisy) - table.implied_noise(b, noisy)).square()
    assert (error <= (a - b).square() * (1 + 1e-3) + 1e-6).all()


def test_an_unknown_prediction_type_is_named():
    with pytest.raises(BadInput, match=r"epsilonn.*did you mean epsilon"):
        Noising(torch.ones(3), "epsilonn")
