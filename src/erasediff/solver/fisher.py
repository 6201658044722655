"""Elastic weight consolidation: a quadratic that holds each weight as firmly as the old task needs it.

Kirkpatrick et al.: Overcoming catastrophic forgetting in neural networks. PNAS 2017, arXiv:1612.00796.
Laplace's approximation of the posterior at theta*, with the diagonal F of the Fisher matrix as its precision:

    -log p(theta | D) = 1/2 sum_i F_i (theta_i - theta*_i)^2 + constant
"""

from __future__ import annotations

import torch
from torch import Tensor

from erasediff.solver.gram import Gradients, combine, inner


def ewc_penalty(fisher: Gradients, weights: Gradients, anchor: Gradients) -> Tensor:
    """1/2 sum_i F_i (theta_i - theta*_i)^2 as a 0-dim fp64 tensor; each list as a list of gradients."""
    moved = displacement(weights, anchor)
    return inner(moved, moved, fisher) / 2


def ewc_gradient(fisher: Gradients, weights: Gradients, anchor: Gradients) -> list[Tensor]:
    """F_i (theta_i - theta*_i): the gradient of :func:`ewc_penalty`. A weight whose F is 0 is free."""
    return [f * moved for f, moved in zip(fisher, displacement(weights, anchor), strict=True)]


def displacement(weights: Gradients, anchor: Gradients) -> list[Tensor]:
    """theta - theta*, one tensor per parameter. Raises BadInput where shapes differ."""
    return combine([1.0, -1.0], [weights, anchor])


def is_fisher(fisher: Gradients) -> bool:
    """Whether every element is finite and none is negative, as squares are."""
    return all(bool(torch.isfinite(f).all()) and bool((f >= 0).all()) for f in fisher)
