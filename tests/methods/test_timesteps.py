"""Forget time steps: drawn as the density says, and the density says where the classes come apart."""

from dataclasses import replace

import pytest
import torch

from erasediff.data.pairs import Pairs
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.methods.erasediff import EraseDiff
from erasediff.methods.objectives import Hellinger, Relabel, Unconditional
from erasediff.methods.timesteps import BINS, Timesteps, drawn, importance
from erasediff.training.context import Context
from erasediff.training.parameters import select
from erasediff.training.processes import Processes


def context(family="unet2d", **options):
    model = TINY[family]()
    model.conditions = replace(model.conditions, excluded=(1,))
    return Context(model, select(model.denoiser, "full"), Processes.start(), seed=0, micro_batch=64, **options)


def pairs(squares, size=64):
    members = (squares.labels == 1).nonzero()[:, 0]
    return Pairs(squares, torch.arange(4), members, batch_size=size, seed=0)


def test_time_steps_follow_the_density():
    density = torch.tensor([0.5, 0.0, 0.25, 0.25])
    t = drawn(density, torch.rand(40_000, generator=torch.Generator().manual_seed(0)), 1000)
    shares = torch.bincount(t * 4 // 1000, minlength=4) / len(t)
    assert torch.allclose(shares, density, atol=0.01)
    inside = t[t < 250].float()
    assert inside.mean() == pytest.approx(124.5, abs=2)  # uniform within a bin


@pytest.mark.parametrize("u", [0.0, 0.5, 1.0])
def test_every_draw_is_a_time_step(u):
    for density in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.full((20,), 0.05)):
        t = drawn(density, torch.tensor([u]), 10)
        assert 0 <= int(t) < 10


def test_a_uniform_density_draws_every_step_alike():
    t = drawn(torch.full((BINS,), 1 / BINS), (torch.arange(1000) + 0.5) / 1000, 1000)
    assert torch.equal(t, torch.arange(1000))


def test_the_density_is_largest_where_the_frozen_model_tells_the_classes_apart(squares):
    ctx = context()
    steps = ctx.model.noising.num_train_timesteps
    # A model that looks at the class in the upper half of time only.
    ctx.predict = lambda noisy, condition, frozen: (
        torch.ones_like(noisy.x_t) * (condition * (noisy.t >= steps // 2))[:, None, None, None]
    )
    density = importance(ctx, pairs(squares, 400), 1.0)
    assert density.sum() == pytest.approx(1.0, abs=1e-6)
    assert density[: BINS // 2].abs().max() == 0
    assert density[BINS // 2 :].min() > 0
    mixed = importance(ctx, pairs(squares, 400), 0.4)
    assert torch.allclose(mixed, 0.6 / BINS + 0.4 * density, atol=1e-6)


def test_a_model_without_regard_for_the_class_gets_a_uniform_density(squares):
    ctx = context()
    ctx.predict = lambda noisy, condition, frozen: noisy.x_t
    assert torch.allclose(importance(ctx, pairs(squares), 1.0), torch.full((BINS,), 1 / BINS))


def test_focused_objectives_ask_at_focused_steps(squares):
    ctx = context()
    density = torch.zeros(BINS)
    density[3] = 1
    noisy = Timesteps(density).noised(ctx, pairs(squares).at(0).forget)
    assert set((noisy.t * BINS // ctx.model.noising.num_train_timesteps).tolist()) == {3}


def test_hellinger_bounds_the_loss_and_weighs_its_gradient(squares):
    ctx, batch = context(), pairs(squares, 8).at(0).forget
    plain, bounded = Relabel(0.0)(ctx, batch).loss, Hellinger(Relabel(0.0))(ctx, batch).loss
    assert torch.allclose(bounded, 1 - torch.exp(-plain))
    (a,), (b,) = (
        ctx.gradients((Relabel(0.0), replace_rows(batch, 1))),
        ctx.gradients((Hellinger(Relabel(0.0)), replace_rows(batch, 1))),
    )
    weight = torch.exp(-a.loss)
    assert all(torch.allclose(weight * x, y, atol=1e-6) for x, y in zip(a.gradients, b.gradients, strict=True))


def replace_rows(batch, count):
    return next(iter(batch.split(count)))


def test_the_floor_under_hellinger_is_kept_only_where_it_is_known(squares):
    ctx, batch = context(), pairs(squares, 8).at(0).forget
    assert Hellinger(Unconditional())(ctx, batch).floor.abs().max() == 0
    assert Hellinger(Relabel(0.0, floor=True))(ctx, batch).floor is None
    with pytest.raises(BadInput, match=r"no known floor"):
        EraseDiff(weighting="hellinger", rule="value_barrier")


@pytest.mark.parametrize("fields", [{"timestep_focus": 1.5}, {"timestep_focus": -0.1}, {"weighting": "other"}])
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(BadInput, match=r"timestep_focus|weighting"):
        EraseDiff(**fields)
