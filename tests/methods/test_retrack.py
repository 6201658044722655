"""ReTrack's claim: the forget target is the best denoiser of the retained images near the forget sample."""

from dataclasses import replace

import pytest
import torch

from erasediff.data.images import as_floats
from erasediff.data.pairs import Pairs
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.methods import redirect
from erasediff.methods.objectives import Denoise
from erasediff.methods.redirect import Redirect, neighbours, posterior
from erasediff.methods.retrack import ReTrack
from erasediff.training.context import Context
from erasediff.training.parameters import select
from erasediff.training.processes import Processes

FAMILIES = ["unet2d", "unet2d-v", "unet2d-sample", "unet2d-unconditional"]


def context(family="unet2d"):
    model = TINY[family]()
    return Context(model, select(model.denoiser, "full"), Processes.start(), seed=0, micro_batch=64)


def pairs(squares, retain=None, size=8, **options):
    forget = (squares.labels == 1).nonzero()[:, 0]
    retain = (squares.labels != 1).nonzero()[:, 0] if retain is None else retain
    return Pairs(squares, retain, forget, **{"batch_size": size, "seed": 0, **options})


def distances(squares, both):
    """[f, r], one pair at a time."""
    forget, retain = both.forget.indices, both.retain.indices
    images = squares.images.double() / 127.5 - 1
    return torch.stack([torch.stack([(images[a] - images[x]).square().sum() for x in retain]) for a in forget])


def kept(state):
    """Data indices [f, k] of the neighbours."""
    return state["neighbours.kept"][state["neighbours.index"]]


@pytest.mark.parametrize(("rows", "columns"), [(256, 4096), (7, 9)])
def test_the_nearest_retained_images_are_found(rows, columns, squares, monkeypatch):
    monkeypatch.setattr(redirect, "ROWS", rows)
    monkeypatch.setattr(redirect, "COLUMNS", columns)
    both = pairs(squares)
    state = neighbours(both, k=5, candidates=None)
    order = distances(squares, both).argsort(1)[:, :5]
    assert torch.equal(kept(state), both.retain.indices[order])
    assert torch.equal(state["neighbours.forget"], both.forget.indices.sort().values)
    assert torch.equal(state["neighbours.images"], squares.images[state["neighbours.kept"]])
    assert state["neighbours.images"].dtype == torch.uint8


def test_no_forget_sample_is_a_neighbour(squares):
    both = pairs(squares, retain=torch.arange(len(squares)))  # a retain set that overlaps
    state = neighbours(both, k=len(squares), candidates=None)
    assert not torch.isin(state["neighbours.kept"], both.forget.indices).any()
    assert (
        len(state["neighbours.kept"]) == len(squares) - len(both.forget.indices) == state["neighbours.index"].shape[1]
    )
    with pytest.raises(BadInput, match="none is left"):
        neighbours(pairs(squares, retain=both.forget.indices), k=1, candidates=None)


def test_candidates_cap_the_search_at_a_draw_of_the_seed(squares):
    draws = [neighbours(pairs(squares, seed=seed), k=60, candidates=6)["neighbours.kept"] for seed in (0, 0, 1)]
    assert len(draws[0]) == 6
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    every = neighbours(pairs(squares), k=60, candidates=1000)["neighbours.kept"]
    assert torch.equal(every, pairs(squares).retain.indices)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_retained_image_is_the_target(family, squares):
    """The target is then the ordinary one of that image, noised so that it comes to the same x_t."""
    ctx, both = context(family), pairs(squares, retain=torch.tensor([0]))
    batch = both.at(0).forget
    noisy = ctx.noised(batch)
    target, scale = Redirect(neighbours(both, k=3, candidates=None), 0.0).target(ctx, batch, noisy)
    only = squares.floats(torch.tensor([0])).expand_as(noisy.x_0)
    noise = (noisy.x_t - noisy.signal * only) / noisy.sigma
    again = ctx.model.noising.noised(only, noise, noisy.t)
    assert torch.allclose(again.x_t, noisy.x_t, atol=1e-5)
    assert torch.allclose(scale * target, scale * ctx.model.noising.target(again), atol=1e-5)


@pytest.mark.parametrize("t", [2, 30, 60, 99])
def test_with_all_retained_images_it_is_the_posterior_mean(t, squares):
    ctx, both = context("unet2d-sample"), pairs(squares)
    batch = both.at(0).forget
    noisy = ctx.noised(batch, t=torch.full((8,), t))
    target, _ = Redirect(neighbours(both, k=1000, candidates=None), 0.0).target(ctx, batch, noisy)
    images = (squares.images[both.retain.indices].double() / 127.5 - 1).flatten(1)
    for row in range(8):
        x_t, signal, sigma = (x[row].double().flatten() for x in (noisy.x_t, noisy.signal, noisy.sigma))
        logs = torch.stack([-((x_t - signal * x) ** 2).sum() / (2 * sigma[0] ** 2) for x in images])
        density = (logs - logs.max()).exp()
        mean = sum(p * x for p, x in zip(density / density.sum(), images, strict=True))
        assert torch.allclose(target[row].double().flatten(), mean, atol=1e-5)


def test_weights_sum_to_one_and_go_from_one_image_to_all_alike(squares):
    ctx, both = context(), pairs(squares)
    batch, state = both.at(0).forget, neighbours(both, k=5, candidates=None)
    around = Redirect(state, 0.0).around(batch)
    found = {}
    for share in (1 - 1e-6, 0.5, 1e-10, 0.0):
        ctx.model.noising.alphas_cumprod = torch.full((100,), share)
        ctx.model.noising._moved.clear()
        weights, mean = posterior(ctx.noised(batch), around)
        assert torch.allclose(weights.sum(1), torch.ones(8), atol=1e-6)
        found[share] = weights, mean
    assert torch.allclose(found[1 - 1e-6][0].max(1).values, torch.ones(8))
    assert torch.allclose(found[1e-10][0], torch.full((8, 5), 0.2), atol=1e-3)
    assert torch.equal(found[0.0][0], torch.full((8, 5), 0.2))
    # With next to no noise the one image is the nearest, which stands first.
    assert torch.allclose(found[1 - 1e-6][1], around[:, 0], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_target_is_bounded_where_there_is_no_noise(family, squares):
    ctx, both = context(family), pairs(squares)
    ctx.model.noising.alphas_cumprod = torch.full((100,), 1 - 1e-7)
    batch = both.at(0).forget
    noisy = ctx.noised(batch)
    objective = Redirect(neighbours(both, k=3, candidates=None), 0.0)
    target, scale = objective.target(ctx, batch, noisy)
    assert (scale * target).abs().max() <= 2 + 1e-2  # two images in [-1, 1] differ by 2
    assert (scale * target).abs().max() > 0.5  # the target is not weighed away
    (term,) = ctx.gradients((objective, batch))
    assert all(torch.isfinite(g).all() for g in term.gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_who_says_the_target_has_no_loss(family, squares):
    ctx, both = context(family), pairs(squares)
    batch, objective = both.at(0).forget, Redirect(neighbours(both, k=3, candidates=None), 0.3)
    assert objective(ctx, batch).loss.min() > 0
    ctx.predict = lambda noisy, condition, **_: objective.target(ctx, batch, noisy)[0]
    losses = objective(ctx, batch)
    assert losses.loss.abs().max() == 0
    assert losses.floor.abs().max() == 0


def test_near_full_noise_the_loss_is_the_ordinary_one_against_the_target(squares):
    ctx, both = context(), pairs(squares)
    batch, objective = both.at(0).forget, Redirect(neighbours(both, k=3, candidates=None), 0.0)
    noisy = ctx.noised(batch, t=torch.full((8,), 99))
    target, scale = objective.target(ctx, batch, noisy)
    assert torch.allclose(scale, torch.ones_like(scale), atol=1e-3)
    ctx.noised = lambda _: noisy
    assert torch.allclose(
        objective(ctx, batch).loss, ctx.divergence(ctx.predict(noisy, batch.labels), target), rtol=1e-2
    )


def test_neighbours_are_looked_up_by_sample(squares):
    both = pairs(squares)
    state = neighbours(both, k=2, candidates=None)
    batch = both.at(3).forget
    rows = [both.forget.indices.sort().values.tolist().index(i) for i in batch.index.tolist()]
    assert torch.equal(Redirect(state, 0.0).around(batch), as_floats(squares.images[kept(state)[rows]]))
    with pytest.raises(BadInput, match="was not in the forget set"):
        Redirect(state, 0.0).around(replace(batch, index=batch.index - 1))


def test_the_step_is_the_sum_of_both_losses(squares):
    ctx, both = context(), pairs(squares)
    state = ReTrack().prepare(ctx, both)
    steps = {w: ReTrack(weight=w).direction(ctx, both.at(0), state) for w in (0.0, 1.0, 3.0)}
    (retain,) = ctx.gradients((Denoise(0.1), both.at(0).retain))
    assert all(torch.equal(a, b) for a, b in zip(steps[0.0].gradients, retain.gradients, strict=True))
    for none, one, three in zip(*(steps[w].gradients for w in (0.0, 1.0, 3.0)), strict=True):
        assert torch.allclose(three - none, 3 * (one - none), atol=1e-5)
    assert float(steps[1.0].log["slack"]) == float(steps[1.0].log["forget_loss"]) > 0


@pytest.mark.parametrize("fields", [{"k": 0}, {"weight": -1.0}, {"candidates": 0}, {"null_share": 1.5}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(BadInput, match=next(iter(fields))):
        ReTrack(**fields)
