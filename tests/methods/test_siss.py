"""SISS's claims: its two terms are the ordinary losses on average, and deletion gets a fixed share of the step."""

from dataclasses import replace

import pytest
import torch

from erasediff.data.pairs import Batch, Pair, Pairs
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.methods.objectives import Denoise
from erasediff.methods.siss import SISS, Mixture, importance_weights
from erasediff.solver.gram import combine, gram
from erasediff.training.context import Context
from erasediff.training.parameters import select
from erasediff.training.processes import Processes

ROWS = 20000


def context(family="unet2d-unconditional", micro_batch=64):
    model = TINY[family]()
    model.conditions = replace(model.conditions, excluded=(1,))
    return Context(model, select(model.denoiser, "full"), Processes.start(), seed=0, micro_batch=micro_batch)


def at(ctx, t):
    """Every sample is noised at the step ``t``."""
    real = ctx.noised
    ctx.noised = lambda batch, *, noise=None, **_: real(batch, t=torch.full((len(batch),), t), noise=noise)
    return ctx


def repeated(squares, role, index, rows=ROWS):
    image, label = squares.floats(torch.tensor([index])), squares.labels[index]
    return Batch(
        image.expand(rows, -1, -1, -1), label.expand(rows), torch.full((rows,), index), role, 0, rows
    )  # fmt: skip


def pairs(squares, size=8):
    forget = (squares.labels == 1).nonzero()[:, 0]
    retain = (squares.labels != 1).nonzero()[:, 0]
    return Pairs(squares, retain, forget, batch_size=size, seed=0)


def agrees(estimate, expected):
    """Two Monte Carlo means [b] agree within four standard errors."""
    error = (estimate.var() / len(estimate) + expected.var() / len(expected)).sqrt()
    return abs(float(estimate.mean() - expected.mean())) < 4 * float(error)


def linear(ctx):
    """A denoiser that minds where it is asked and under which condition, more than a miniature would."""

    def predict(noisy, condition, **_):
        asked = 0.0 if condition is None else condition.reshape(-1, 1, 1, 1) / 2
        return 1.5 * noisy.x_t + asked

    ctx.predict = predict
    return ctx


@pytest.mark.parametrize("mixing", [0.25, 0.5])
@pytest.mark.parametrize("t", [30, 60, 92])
@pytest.mark.parametrize("family", ["unet2d-unconditional", "unet2d", "unet2d-v", "unet2d-sample"])
def test_both_terms_are_on_average_the_ordinary_losses(family, t, mixing, squares):
    """At every overlap of the two densities; with image 1 go one of its class (5) and one of another (0)."""
    ctx = linear(at(context(family), t))
    forget = repeated(squares, "forget", 1)
    for other in (5, 0):
        retain = repeated(squares, "retain", other)
        keep, delete = Mixture(mixing, 0.2)(ctx, retain, forget)
        ordinary = [Denoise(0.2)(ctx, replace(b, role="other/" + b.role)).loss for b in (retain, forget)]
        assert agrees(keep.loss, ordinary[0])
        assert agrees(delete.loss, ordinary[1])
        assert torch.equal(keep.denoise, keep.loss)


def test_the_condition_is_that_of_the_component_and_dropped_for_both_rows_or_neither(squares):
    ctx, asked = at(context("unet2d"), 92), []
    real = ctx.predict
    ctx.predict = lambda noisy, condition, **_: asked.append(condition) or real(noisy, condition)
    retain, forget = repeated(squares, "retain", 0, 500), repeated(squares, "forget", 1, 500)
    with torch.no_grad():
        keep, delete = Mixture(0.5, 0.3)(ctx, retain, forget)
    (condition,) = asked
    dropped, deleted = condition == ctx.model.conditions.null_label, condition == 1
    assert 0.2 < dropped.double().mean() < 0.4
    assert 0.25 < deleted.double().mean() < 0.45
    # Under the null condition a row serves both terms, under a class of its own only the one of that class.
    assert torch.equal(keep.loss > 0, dropped | ~deleted)
    assert torch.equal(delete.loss > 0, dropped | deleted)


def test_where_the_densities_overlap_a_sample_serves_both_terms(squares):
    """What the test above measures is no mere coin: at high noise both weights are near 1 for one and the same row."""
    ctx = at(context(), 92)
    with torch.no_grad():
        keep, delete = Mixture(0.5, 0.0)(ctx, repeated(squares, "retain", 5, 64), repeated(squares, "forget", 1, 64))
    assert ((keep.loss > 0) & (delete.loss > 0)).all()


@pytest.mark.parametrize("mixing", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_weights_sum_to_one_and_are_the_ratios_of_densities(mixing):
    log_ratio = torch.linspace(-30, 30, 61, dtype=torch.float64)
    w_x, w_a = importance_weights(log_ratio, mixing)
    assert torch.allclose((1 - mixing) * w_x + mixing * w_a, torch.ones_like(w_x), atol=1e-12)
    mixture = (1 - mixing) + mixing * log_ratio.exp()
    assert torch.allclose(w_x, 1 / mixture, rtol=1e-9)
    assert torch.allclose(w_a, log_ratio.exp() / mixture, rtol=1e-9)


def test_without_mixing_the_keep_weight_is_one():
    w_x, w_a = importance_weights(torch.tensor([-1e9, -3.0, 0.0, 3.0]), 0.0)
    assert torch.equal(w_x, torch.ones(4))
    assert torch.allclose(w_a, torch.tensor([-1e9, -3.0, 0.0, 3.0]).exp())


def test_far_apart_the_weights_are_those_of_a_coin_to_the_last_bit():
    w_x, w_a = importance_weights(torch.tensor([-1e12, 1e12]), 0.5)
    assert torch.equal(w_x, torch.tensor([2.0, 0.0]))
    assert torch.equal(w_a, torch.tensor([0.0, 2.0]))


@pytest.mark.parametrize("share", [1 - 1e-7, 1 - 1e-4, 1e-8, 0.0])
@pytest.mark.parametrize("family", ["unet2d-unconditional", "unet2d-v", "unet2d-sample"])
def test_losses_are_finite_at_either_end_of_the_noise(family, share, squares):
    ctx = context(family)
    ctx.model.noising.alphas_cumprod = torch.full_like(ctx.model.noising.alphas_cumprod, share)
    pair = pairs(squares, 32).at(0)
    terms = ctx.joint_gradients(Mixture(0.5, 0.1), pair.retain, pair.forget)
    for term in terms:
        assert torch.isfinite(term.loss).all()
        assert all(torch.isfinite(g).all() for g in term.gradients)


@pytest.mark.parametrize("importance", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.7])
def test_the_delete_gradient_has_its_share_of_the_norm(importance, share, squares):
    ctx, both = context("unet2d"), pairs(squares)
    method = SISS(delete_share=share, importance=importance)
    state = method.prepare(ctx, both)
    pair = both.at(0)
    found = method.direction(ctx, pair, state)
    keep, delete = method._terms(ctx, pair)
    kept, deleted = len(both.retain.indices), len(both.forget.indices)
    kept_part = combine([(kept + deleted) / kept], [keep.gradients])
    rest = combine([1.0, -1.0], [found.gradients, kept_part])
    matrix = gram([kept_part, rest, delete.gradients])
    assert float(matrix[1, 1].sqrt() / matrix[0, 0].sqrt()) == pytest.approx(share, rel=1e-4)
    # It is the delete gradient, upside down.
    assert float(matrix[1, 2] / (matrix[1, 1] * matrix[2, 2]).sqrt()) == pytest.approx(-1, abs=1e-5)
    assert float(found.log["multiplier"]) < 0


def test_no_share_is_no_deletion_and_a_vanished_gradient_is_not_divided_by(squares):
    ctx, both = context(), pairs(squares)
    method = SISS(delete_share=0.0)
    found = method.direction(ctx, both.at(0), method.prepare(ctx, both))
    keep, _ = method._terms(ctx, both.at(0))
    expected = combine([float(found.log["retain_weight"])], [keep.gradients])
    assert all(torch.allclose(a, b) for a, b in zip(found.gradients, expected, strict=True))

    class Nothing(SISS):
        def _terms(self, ctx, pair):
            keep, delete = super()._terms(ctx, pair)
            return [keep, delete._replace(gradients=[torch.zeros_like(g) for g in delete.gradients])]

    still = Nothing().direction(ctx, both.at(0), method.prepare(ctx, both))
    assert all(torch.equal(a, b) for a, b in zip(still.gradients, found.gradients, strict=True))


@pytest.mark.parametrize("family", ["unet2d-unconditional", "unet2d"])
def test_micro_batches_add_up_to_the_whole_batch(family, squares):
    pair = pairs(squares).at(0)
    whole = context(family).joint_gradients(Mixture(0.5, 0.3), pair.retain, pair.forget)
    pieces = context(family, 3).joint_gradients(Mixture(0.5, 0.3), pair.retain, pair.forget)
    for a, b in zip(whole, pieces, strict=True):
        assert torch.allclose(a.loss, b.loss, rtol=1e-4, atol=1e-5)
        assert all(torch.allclose(x, y, rtol=1e-3, atol=1e-5) for x, y in zip(a.gradients, b.gradients, strict=True))


@pytest.mark.parametrize("importance", [True, False])
def test_one_pass_saves_a_forward(importance, squares):
    ctx, both = context(), pairs(squares)
    method = SISS(importance=importance)
    method.direction(ctx, both.at(0), method.prepare(ctx, both))
    assert ctx.spent / both.batch_size == method.forward_equivalents() == (5 if importance else 6)


def test_the_plain_version_is_two_denoising_losses(squares):
    ctx, both = context("unet2d"), pairs(squares)
    pair: Pair = both.at(0)
    found = SISS(importance=False)._terms(ctx, pair)
    expected = ctx.gradients((Denoise(0.1), pair.retain), (Denoise(0.1), pair.forget))
    assert all(torch.equal(a.loss, b.loss) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "fields", [{"mixing": -0.1}, {"mixing": 1.1}, {"delete_share": -1.0}, {"null_share": 2.0}, {"mixing": float("nan")}]
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(BadInput, match=next(iter(fields))):
        SISS(**fields)


def test_one_sided_mixing_is_refused_where_conditions_differ(squares):
    with pytest.raises(BadInput, match="mixing must lie strictly between"):
        SISS(mixing=0.0).prepare(context("unet2d"), pairs(squares))
    SISS(mixing=0.0, importance=False).prepare(context("unet2d"), pairs(squares))
    ctx, both = context(), pairs(squares)
    method = SISS(mixing=0.0)
    found = method.direction(ctx, both.at(0), method.prepare(ctx, both))
    assert all(torch.isfinite(g).all() for g in found.gradients)
    with pytest.raises(BadInput, match="forget set"):
        SISS().prepare(context(), Pairs(squares, torch.arange(4), None, batch_size=4, seed=0))
