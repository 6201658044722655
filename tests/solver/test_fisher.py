"""Elastic weight consolidation: the pull is the gradient of the penalty, and weights that never mattered are free."""

import pytest
import torch

from erasediff.errors import BadInput
from erasediff.solver.fisher import displacement, ewc_gradient, ewc_penalty, is_fisher


def lists(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,), ()]
    weights, anchor = ([torch.randn(s, generator=generator) for s in shapes] for _ in range(2))
    return [torch.rand(s, generator=generator) for s in shapes], weights, anchor


def test_the_pull_is_what_autograd_says_of_the_penalty():
    fisher, weights, anchor = lists()
    leaves = [w.clone().requires_grad_() for w in weights]
    half = sum((f * (w - a) ** 2).sum() for f, w, a in zip(fisher, leaves, anchor, strict=True)) / 2
    expected = torch.autograd.grad(half, leaves)
    found = ewc_gradient(fisher, weights, anchor)
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))
    assert ewc_penalty(fisher, weights, anchor).item() == pytest.approx(half.item(), rel=1e-6)


def test_at_the_anchor_nothing_pulls():
    fisher, _, anchor = lists()
    assert ewc_penalty(fisher, anchor, anchor) == 0
    assert all((g == 0).all() for g in ewc_gradient(fisher, anchor, anchor))


def test_a_weight_without_fisher_is_free():
    fisher, weights, anchor = lists()
    fisher[0][1, 2] = 0
    before = ewc_penalty(fisher, weights, anchor)
    assert ewc_gradient(fisher, weights, anchor)[0][1, 2] == 0
    weights[0][1, 2] += 100
    assert ewc_penalty(fisher, weights, anchor) == before


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(BadInput, match="agree in number and shapes"):
        displacement([torch.ones(3)], [torch.ones(1)])


def test_what_a_fisher_matrix_is():
    assert is_fisher([torch.tensor([0.0, 1.0]), torch.ones(())])
    for wrong in (-1.0, float("nan"), float("inf")):
        assert not is_fisher([torch.ones(2), torch.tensor([1.0, wrong])])
