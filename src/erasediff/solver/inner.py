"""The inner loop of EraseDiff (arXiv:2401.05779, algorithm 1): K plain gradient descents towards min_phi L_f(phi).

Under a = eta ||g_f||^2 its value does not enter the step, and for the targets in use the least is known in closed
form (:mod:`erasediff.solver.floors`). It is here for targets whose least is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from erasediff.errors import BadInput
from erasediff.solver.gram import Gradients


def inner_minimum(
    loss_fn: Callable[[list[Tensor]], Tensor], parameters: Gradients, *, steps: int, learning_rate: float
) -> Tensor:
    """L_f(phi^K) after ``steps`` gradient descents from ``parameters``, 0-dim fp64: an upper bound of the least.

    Args:
        loss_fn: the forget loss as a pure function of a list of tensors (as with ``torch.func.functional_call``): the
            same value for the same list, so it must draw nothing from a global generator.
        parameters: where to start; they and their ``.grad`` are left alone, the descent is on copies.

    Raises:
        BadInput: negative ``steps``, or a learning rate that is not above 0.
    """
    if steps < 0 or not learning_rate > 0:
        raise BadInput(f"inner_minimum needs steps >= 0 and a learning rate above 0, got {steps} and {learning_rate}")
    phi = [p.detach().clone() for p in parameters]
    for _ in range(steps):
        phi = _descended(loss_fn, phi, learning_rate)
    with torch.no_grad():
        return loss_fn(phi).double()


def _descended(loss_fn: Callable[[list[Tensor]], Tensor], phi: Sequence[Tensor], rate: float) -> list[Tensor]:
    with torch.enable_grad():
        leaves = [p.requires_grad_() for p in phi]
        grads = torch.autograd.grad(loss_fn(leaves), leaves, allow_unused=True)
    return [p.detach() if g is None else p.detach() - rate * g for p, g in zip(leaves, grads, strict=True)]
