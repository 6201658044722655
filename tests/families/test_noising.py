"""Views of one thing: what each prediction type says must agree, under preserved variance and on straight lines."""

import math

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from erasediff.errors import BadInput
from erasediff.families.flow import euler
from erasediff.families.noising import VIEWS, FlowNoising, Noising, shift_for
from erasediff.families.sampling import sample

TYPES = sorted(VIEWS)
EVERY = [*TYPES, "flow"]


def noising(prediction_type):
    if prediction_type == "flow":
        return FlowNoising.of(FlowMatchEulerDiscreteScheduler(num_train_timesteps=50, shift=3.0))
    return Noising.of(DDPMScheduler(num_train_timesteps=50, prediction_type=prediction_type))


def batch(seed=0, size=16):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(size, 2, 4, 4, generator=generator)  # noqa: E731
    return draw(), draw(), torch.randint(50, (size,), generator=generator)


@pytest.mark.parametrize("prediction_type", EVERY)
def test_a_perfect_prediction_implies_the_noise_that_was_added(prediction_type):
    table = noising(prediction_type)
    noisy = table.noised(*batch())
    implied = table.implied_noise(table.target(noisy), noisy)
    assert torch.allclose(implied, noisy.noise, atol=1e-3)
    # At the last step a prediction of the noise says next to nothing of x_0: its error is blown up by 1/signal.
    assert torch.allclose(
        noisy.signal * table.implied_x_0(table.target(noisy), noisy), noisy.signal * noisy.x_0, atol=1e-3
    )


@pytest.mark.parametrize("prediction_type", TYPES)
def test_noising_and_targets_agree_with_diffusers(prediction_type):
    scheduler = DDPMScheduler(num_train_timesteps=50, prediction_type=prediction_type)
    x_0, noise, t = batch()
    noisy = Noising.of(scheduler).noised(x_0, noise, t)
    assert torch.allclose(noisy.x_t, scheduler.add_noise(x_0, noise, t), atol=1e-6)
    expected = {"epsilon": noise, "sample": x_0, "v_prediction": scheduler.get_velocity(x_0, noise, t)}
    assert torch.allclose(Noising.of(scheduler).target(noisy), expected[prediction_type], atol=1e-6)


@pytest.mark.parametrize("prediction_type", EVERY)
def test_weighted_noise_error_is_bounded_by_the_prediction_error(prediction_type):
    """weight * |implied(a) - implied(b)|^2 <= |a - b|^2 at every t, so no step's loss explodes."""
    table = noising(prediction_type)
    x_0, noise, _ = batch(size=50)
    noisy = table.noised(x_0, noise, torch.arange(50))
    a, b = torch.randn_like(x_0), torch.randn_like(x_0)
    error = table.noise_weight(noisy) * (table.implied_noise(a, noisy) - table.implied_noise(b, noisy)).square()
    assert (error <= (a - b).square() * (1 + 1e-3) + 1e-6).all()


@pytest.mark.parametrize("prediction_type", EVERY)
def test_implied_noise_and_implied_x_0_make_up_x_t(prediction_type):
    """Whatever is predicted, x_t = signal x_0 + sigma noise for what it implies."""
    table = noising(prediction_type)
    noisy, said = table.noised(*batch()), torch.randn(16, 2, 4, 4)
    made_up = noisy.signal * table.implied_x_0(said, noisy) + noisy.sigma * table.implied_noise(said, noisy)
    assert torch.allclose(made_up, noisy.x_t, atol=1e-4)


SHIFTS = {
    "none": {},
    "static": {"shift": 3.0},
    "dynamic": {"use_dynamic_shifting": True},
    "linear": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    "few steps": {"use_dynamic_shifting": True, "shift_terminal": 0.02, "use_karras_sigmas": True},
}


@pytest.mark.parametrize("shifted", SHIFTS)
def test_a_flow_goes_straight_from_the_image_to_the_noise(shifted):
    """Both ends, and that steps rise: t = 0 is next to x_0, the last one is the noise and nothing else."""
    table = FlowNoising.of(FlowMatchEulerDiscreteScheduler(**SHIFTS[shifted]), mu=0.8)
    x_0, noise, _ = batch()
    first, last = (table.noised(x_0, noise, torch.full((16,), t)) for t in (0, 999))
    assert table.num_train_timesteps == 1000
    assert torch.equal(last.x_t, noise)
    assert first.sigma.max() < 0.005
    assert torch.allclose(first.x_t, x_0, atol=0.03)
    assert (table.sigmas.diff() > 0).all()
    assert torch.equal(last.signal + last.sigma, torch.ones_like(last.sigma))


def test_shifts_are_those_of_their_papers_and_of_diffusers():
    """Esser et al., arXiv:2403.03206, eq. 23, and for images of a size e^mu / (e^mu + 1/sigma - 1)."""
    u = torch.arange(1, 1001) / 1000
    static = FlowNoising.of(FlowMatchEulerDiscreteScheduler(shift=3.0)).sigmas
    assert torch.allclose(static, 3 * u / (1 + 2 * u), atol=1e-6)
    dynamic = FlowNoising.of(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), mu=0.8).sigmas
    assert torch.allclose(dynamic, math.exp(0.8) / (math.exp(0.8) + 1 / u - 1), atol=1e-6)
    assert shift_for(256, {}) == pytest.approx(0.5)
    assert shift_for(4096, {}) == pytest.approx(1.15)
    assert shift_for(2176, {"base_shift": 0.0, "max_shift": 1.0}) == pytest.approx(0.5)


@pytest.mark.parametrize("shifted", ["none", "static"])
def test_a_flow_agrees_with_scale_noise_of_diffusers(shifted):
    scheduler = FlowMatchEulerDiscreteScheduler(**SHIFTS[shifted])
    table = FlowNoising.of(scheduler)
    x_0, noise, _ = batch()
    t = torch.randint(1000, (16,))
    assert torch.equal(table.timesteps(t), scheduler.timesteps.flip(0)[t])
    expected = scheduler.scale_noise(x_0, table.timesteps(t), noise)
    assert torch.allclose(table.noised(x_0, noise, t).x_t, expected, atol=1e-6)
    assert torch.allclose(table.noised(x_0, noise, table.timesteps(t)).x_t, expected, atol=1e-6)


def test_a_scheduler_that_has_drawn_is_read_as_new():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    before = FlowNoising.of(scheduler).sigmas
    scheduler.set_timesteps(4)
    assert torch.equal(FlowNoising.of(scheduler).sigmas, before)


class Known:
    """The exact denoiser of a data set of one point: a Model as far as sampling goes."""

    def __init__(self, scheduler, x_0):
        self.denoiser, self.scheduler, self.x_0 = None, scheduler, x_0
        self.noising, self.asked = FlowNoising.of(scheduler, mu=0.8), []

    def ask(self, denoiser, x_t, t, condition):
        self.asked.append(t)
        sigma = self.noising.noised(x_t, x_t, t).sigma
        return (x_t - self.x_0) / sigma

    def sampler(self, num_inference_steps):
        return euler(self.scheduler, num_inference_steps, mu=0.8)

    def decode(self, x_0):
        return x_0


# diffusers stretches no schedule of a single step.
@pytest.mark.parametrize(("shifted", "steps"), [(s, n) for s in SHIFTS for n in (1, 7) if (s, n) != ("few steps", 1)])
def test_the_exact_denoiser_of_one_point_leads_to_the_point(shifted, steps):
    """Lines are straight, so even one step is exact; and the loop hands on timesteps that are no whole numbers."""
    x_0, noise, _ = batch()
    model = Known(FlowMatchEulerDiscreteScheduler(**SHIFTS[shifted]), x_0)
    drawn = sample(model, noise, None, None, num_inference_steps=steps)
    assert torch.allclose(drawn, x_0, atol=1e-4)
    expected = model.sampler(steps).timesteps
    assert torch.equal(torch.stack([t[0] for t in model.asked]), expected)
    assert steps == 1 or bool((expected != expected.round()).any())


def test_schedulers_that_are_read_otherwise_are_refused():
    with pytest.raises(BadInput, match="DDPMScheduler is none of flow matching; use a FlowMatchEuler"):
        FlowNoising.of(DDPMScheduler())
    with pytest.raises(BadInput, match="invert_sigmas"):
        FlowNoising.of(FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
    with pytest.raises(BadInput, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod"):
        Noising.of(FlowMatchEulerDiscreteScheduler())


def test_an_unknown_prediction_type_is_named():
    with pytest.raises(BadInput, match=r"epsilonn.*did you mean epsilon"):
        Noising(torch.ones(3), "epsilonn")
