"""The multiplier lambda of d = g_r + lambda g_f: one named function of the Gram matrix each, and the guards.

EraseDiff (Wu, Le, Hayat, Harandi, CVPR 2025, arXiv:2401.05779) with the dynamic barrier of BOME (Ye et al. 2022,
arXiv:2209.08709): d is the vector closest to g_r among those with <d, g_f> >= a,

    d = g_r + lambda g_f,    lambda = max(0, (a - <g_r, g_f>) / ||g_f||^2)                                     (*)

so that under a plain gradient step the forget loss falls, to first order, by the step size times a at least. It
protects forgetting, not retention: <g_r, d> may be negative. Two more rules exist only to reproduce released code.
Every multiplier is a 0-dim fp64 tensor, and 0 where g_f = 0, which no multiplier can then push along.
"""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

import torch
from torch import Tensor

from erasediff.errors import BadInput
from erasediff.solver.gram import cosine, quotient


class Guard(IntFlag):
    """Which guards changed a step. Where one did, <d, g_f> >= a is not claimed for that step."""

    FLOOR = 1
    """||g_f||^2 was too small against ||g_r||^2 to divide by."""
    CAP = 2
    """lambda exceeded its cap."""
    SKIP = 4
    """The slack was within its tolerance: nothing left to forget, lambda = 0."""


class Guarded(NamedTuple):
    """A guarded multiplier, and which guards fired: a 0-dim int64 tensor of :class:`Guard` bits, 0 if none."""

    multiplier: Tensor
    fired: Tensor


def dynamic_barrier(gram: Tensor, *, eta: float | Tensor) -> Tensor:
    """(*) with a = eta ||g_f||^2, the paper's rule. The least forget loss does not enter: no inner loop is needed."""
    return barrier(gram, eta * gram[1, 1])


def projected_barrier(gram: Tensor, *, eta: float | Tensor) -> Tensor:
    """(*) with a = eta ||g_f||^2 + max(0, <g_r, g_f>): eta, and what takes the conflict out of g_r.

    d = P g_r + eta g_f, where P takes from g_r what would raise the forget loss (A-GEM, Chaudhry et al. 2019,
    arXiv:1812.00420) and leaves alone what lowers it. The paper's rule pushes the less where both agree, which is where
    a push costs the rest least; never less than it.
    """
    # Not through `barrier`: adding <g_r, g_f> only to take it away again would lose a small eta ||g_f||^2.
    return quotient(eta * gram[1, 1] + (-gram[0, 1]).clamp(min=0), gram[1, 1])


def value_barrier(gram: Tensor, *, eta: float | Tensor, slack: Tensor) -> Tensor:
    """(*) with a = eta max(0, slack), slack = L_f(theta) - min_phi L_f(phi), 0-dim: pushes as hard as is left to do.

    At slack 0 it takes from g_r what would raise the forget loss and no more. lambda and lambda g_f are unbounded
    as g_f -> 0 at a positive slack: use :func:`guard`.
    """
    return barrier(gram, eta * slack.to(gram).clamp(min=0))


def barrier(gram: Tensor, level: Tensor) -> Tensor:
    """(*) with a = ``level``, 0-dim. Holds for a plain gradient step (SGD without momentum, any learning rate)."""
    return quotient(level - gram[0, 1], gram[1, 1]).clamp(min=0)


def cosine_rule(gram: Tensor, *, eta: float | Tensor) -> Tensor:
    """max(0, eta - cos(g_r, g_f)): the adaptive branch of the released code, for reproduction only.

    It is not (*): it may let the forget loss rise. A zero g_r counts as orthogonal.
    """
    multiplier = (eta - cosine(gram)).clamp(min=0)
    return torch.where(gram[1, 1] == 0, torch.zeros_like(multiplier), multiplier)


def constant(gram: Tensor, *, value: float) -> Tensor:
    """``value``, whatever the gradients: the released code's default, a weighted sum; for reproduction only."""
    multiplier = torch.full_like(gram[1, 1], value)
    return torch.where(gram[1, 1] == 0, torch.zeros_like(multiplier), multiplier)


def guard(
    multiplier: Tensor,
    gram: Tensor,
    *,
    norm_floor: float,
    cap: float,
    slack: Tensor | None = None,
    tolerance: float | None = None,
) -> Guarded:
    """Keep a multiplier finite and useful, and say where that changed it.

    Args:
        multiplier: lambda, 0-dim, of any rule that divides by ||g_f||^2.
        gram: [2, 2].
        norm_floor: lambda is divided by max(||g_f||^2, norm_floor ||g_r||^2) instead; 0 for no floor.
        cap: the largest lambda; ``math.inf`` for no cap.
        slack: L_f - min L_f, 0-dim; needed with ``tolerance``.
        tolerance: the forget term is skipped at slack <= tolerance; ``None`` never skips.

    Raises:
        BadInput: a tolerance without a slack to hold against it.
    """
    floor = norm_floor * gram[0, 0]
    below = gram[1, 1] < floor
    floored = torch.where(below, multiplier * quotient(gram[1, 1], floor), multiplier)
    above = floored > cap
    guarded = floored.clamp(max=cap)
    done = _within(slack, tolerance, like=above)
    guarded = torch.where(done, torch.zeros_like(guarded), guarded)
    return Guarded(guarded, below * int(Guard.FLOOR) + above * int(Guard.CAP) + done * int(Guard.SKIP))


def _within(slack: Tensor | None, tolerance: float | None, *, like: Tensor) -> Tensor:
    if tolerance is None:
        return torch.zeros_like(like)
    if slack is None:
        raise BadInput("tolerance needs the slack, but the least forget loss of this target is unknown")
    return slack.to(like.device) <= tolerance
