"""Inner products of gradients, their Gram matrix, and weighted sums of them.

Everywhere in the solver index 0 is retain (g_r) and 1 is forget (g_f). Every rule but Adam's is a function of

    G = [[<g_r, g_r>, <g_r, g_f>],
         [<g_f, g_r>, <g_f, g_f>]]                                      [2, 2], fp64

so a gradient is read once, and nothing here waits for the device: results are fp64 tensors, never Python numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from erasediff.errors import BadInput

Gradients = Sequence[Tensor]
"""One tensor per trained parameter, in the order of the parameters, each in its parameter's shape."""

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor of partial inner products over the shards of the gradients; the identity where each rank holds all."""


def whole(partial: Tensor) -> Tensor:
    """The :data:`Reduce` of gradients that are not sharded."""
    return partial


def inner(a: Gradients, b: Gradients, metric: Gradients | None = None) -> Tensor:
    """<a, b>, or <a, P b> where ``metric`` holds the diagonal of P (positive), as a 0-dim fp64 tensor.

    Products are taken in fp32 at least and summed in fp64. Elements are paired by index, whatever their memory layout.

    Raises:
        BadInput: the lists are empty, or differ in length or in shapes.
    """
    lists = [a, b] if metric is None else [a, b, metric]
    _same_shapes(lists)
    return torch.stack([_tensor_inner(column) for column in zip(*lists, strict=True)]).sum()


def gram(gradients: Sequence[Gradients], metric: Gradients | None = None, *, reduce: Reduce = whole) -> Tensor:
    """The Gram matrix [m, m], fp64, symmetric to the last bit: G_ij = <g_i, g_j>, or <g_i, P g_j> in a metric.

    Args:
        gradients: m lists of tensors.
        metric: diagonal of P, as for :func:`inner`.
        reduce: one sum over shards for the whole matrix.
    """
    m = len(gradients)
    upper = {(i, j): inner(gradients[i], gradients[j], metric) for i in range(m) for j in range(i, m)}
    rows = [torch.stack([upper[min(i, j), max(i, j)] for j in range(m)]) for i in range(m)]
    return reduce(torch.stack(rows))


def combine(weights: Tensor | Sequence[Tensor | float], gradients: Sequence[Gradients]) -> list[Tensor]:
    """sum_i w_i g_i, one tensor per parameter, in the dtype and layout of the first gradient.

    Args:
        weights: [m].
        gradients: m lists of tensors. Sums are taken in fp32 at least, so that a large weight is not rounded to bf16.

    Raises:
        BadInput: as many weights as gradients are needed, and the gradients must have the same shapes.
    """
    scalars = list(weights.unbind()) if isinstance(weights, Tensor) else list(weights)
    if len(scalars) != len(gradients):
        raise BadInput(f"combine needs a weight for each gradient, got {len(scalars)} for {len(gradients)}")
    _same_shapes(gradients)
    return [_weighted_sum(scalars, column) for column in zip(*gradients, strict=True)]


def cosine(gram: Tensor) -> Tensor:
    """cos(g_r, g_f) in [-1, 1], 0-dim; 0 where either gradient is zero, which then has no direction."""
    norms = gram.diagonal().sqrt()
    # Divided one norm at a time: the product of two tiny norms underflows.
    return quotient(quotient(gram[0, 1], norms[0]), norms[1]).clamp(-1, 1)


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 0 where the denominator is 0, without asking the device which."""
    zero = denominator == 0
    return torch.where(zero, torch.zeros_like(denominator), numerator / denominator.masked_fill(zero, 1.0))


def _tensor_inner(column: Sequence[Tensor]) -> Tensor:
    product = _wide(column[0]) * _wide(column[1])
    for factor in column[2:]:
        product = product * _wide(factor)
    return product.sum(dtype=torch.float64)


def _weighted_sum(weights: Sequence[Tensor | float], column: Sequence[Tensor]) -> Tensor:
    total = _wide(column[0]) * weights[0]
    for weight, gradient in zip(weights[1:], column[1:], strict=True):
        total = total + _wide(gradient) * weight
    return total.to(column[0].dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _same_shapes(lists: Sequence[Gradients]) -> None:
    # Broadcasting would silently pair what does not belong together.
    shapes = [[tuple(x.shape) for x in tensors] for tensors in lists]
    if not shapes or not shapes[0]:
        raise BadInput("the solver got no gradients; at least one trained parameter is needed")
    if any(other != shapes[0] for other in shapes[1:]):
        raise BadInput(f"gradients must agree in number and shapes, got lists of {[len(s) for s in shapes]} tensors")
