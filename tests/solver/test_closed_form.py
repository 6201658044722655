"""The closed-form edit: the least of its objective, and what follows from it."""

import pytest
import torch

from erasediff.errors import BadInput
from erasediff.solver.closed_form import edit_matrix

D, OUT = 6, 4


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def objective(w, w_0, sources, targets, kept, *, ridge, source_weight, kept_weight):
    erased = (sources @ w.T - targets @ w_0.T).square().sum()
    held = (kept @ w.T - kept @ w_0.T).square().sum()
    return source_weight * erased + kept_weight * held + ridge * (w - w_0).square().sum()


WEIGHTS = {"ridge": 0.3, "source_weight": 1.7, "kept_weight": 0.6}


@pytest.mark.parametrize(("erased", "kept"), [(1, 0), (2, 1), (3, 9), (9, 3), (8, 0)])
def test_it_is_the_minimum_that_gradient_descent_finds(erased, kept):
    w_0, s, t, k = drawn(OUT, D), drawn(erased, D, seed=1), drawn(erased, D, seed=2), drawn(kept, D, seed=3)
    w = w_0.clone().requires_grad_()
    descent = torch.optim.LBFGS(
        [w], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        descent.zero_grad()
        loss = objective(w, w_0, s, t, k, **WEIGHTS)
        loss.backward()
        return loss

    descent.step(closure)
    assert torch.allclose(w_0 @ edit_matrix(s, t, k, **WEIGHTS), w.detach(), atol=1e-6)


@pytest.mark.parametrize(("erased", "kept"), [(2, 3), (5, 20)])
def test_it_is_the_formula_of_the_paper(erased, kept):
    w_0, s, t, k = drawn(OUT, D), drawn(erased, D, seed=1), drawn(erased, D, seed=2), drawn(kept, D, seed=3)
    left = 0.3 * w_0 + sum(torch.outer(w_0 @ v, c) for c, v in [*zip(s, t, strict=True), *zip(k, k, strict=True)])
    right = 0.3 * torch.eye(D, dtype=w_0.dtype) + sum(torch.outer(c, c) for c in [*s, *k])
    assert torch.allclose(w_0 @ edit_matrix(s, t, k, ridge=0.3), left @ right.inverse())


def test_nothing_erased_changes_nothing():
    none = drawn(0, D)
    assert torch.equal(edit_matrix(none, none, drawn(3, D), ridge=0.1), torch.eye(D, dtype=torch.float64))
    s = drawn(3, D)
    assert torch.equal(edit_matrix(s, s, drawn(9, D), ridge=0.1), torch.eye(D, dtype=torch.float64))


@pytest.mark.parametrize("size", [6, 40])
def test_as_lambda_goes_to_0_independent_inputs_are_met_exactly_erased_and_kept(size):
    s, t, k = drawn(2, size, seed=1), drawn(2, size, seed=2), drawn(3, size, seed=3)
    errors = []
    for ridge in (1e-2, 1e-5, 1e-8):
        matrix = edit_matrix(s, t, k, ridge=ridge)
        errors.append(max(float((s @ matrix.T - t).abs().max()), float((k @ matrix.T - k).abs().max())))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5


def test_a_great_weight_keeps_what_is_kept_though_an_erased_input_lies_among_it():
    k = drawn(3, D, seed=3)
    s, t = k[:1] + k[1:2], drawn(1, D, seed=2)
    light, heavy = (edit_matrix(s, t, k, ridge=1e-3, kept_weight=w) for w in (1.0, 1e8))
    assert (k @ light.T - k).abs().max() > 1e-2
    assert (k @ heavy.T - k).abs().max() < 1e-6


def test_a_great_lambda_changes_nothing():
    s, t, k = drawn(2, D, seed=1), drawn(2, D, seed=2), drawn(3, D, seed=3)
    assert torch.allclose(edit_matrix(s, t, k, ridge=1e12), torch.eye(D, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize(
    ("shapes", "ridge", "said"),
    [
        (((2, D), (3, D), (1, D)), 1.0, r"got \[2, 6\], \[3, 6\]"),
        (((2, D), (2, D), (1, D + 1)), 1.0, "kept"),
        (((2, D), (2, D), (1, D)), 0.0, "ridge must be above 0"),
    ],
)
def test_bad_input(shapes, ridge, said):
    with pytest.raises(BadInput, match=said):
        edit_matrix(*(drawn(*shape) for shape in shapes), ridge=ridge)
