"""Multipliers that hold for the step Adam takes, not for the gradient it is handed.

Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1) handed d at step t moves the weights along

    -P(d) (beta1 m + (1 - beta1) d),    P(d) = 1 / (sqrt((beta2 v + (1 - beta2) d^2) / (1 - beta2^t)) + eps)

times lr / (1 - beta1^t). The barrier of :mod:`erasediff.solver.multiplier` says nothing about that: <g_f, P d> has no
sign. Three rules, each proved by a test, each for its own step:

    euclidean           (multiplier.dynamic_barrier)       <g_f, d> >= eta ||g_f||^2            plain gradient steps
    metric              (adam_multiplier, momentum=False)  <g_f, P d> >= eta ||g_f||_P^2        Adam with beta1 = 0
    metric + momentum   (adam_multiplier)                  <g_f, P (beta1 m + (1 - beta1) d)>
                                                               >= (1 - beta1) eta ||g_f||_P^2   Adam as it is

with <a, b>_P = <a, P b>. They hold for torch.optim.Adam, and for AdamW's step less its weight decay; not with amsgrad,
nor where something between lambda and the step changes d (gradient clipping, masks, L2 weight decay).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erasediff.errors import BadInput
from erasediff.solver.gram import Gradients, Reduce, quotient, whole

# A proposal aims this much above equality, so that a fixed point that is nearly reached counts as reached.
MARGIN = 1e-3
# Finite in fp64 even when squared with a gradient. Elements of g_f that would need more than this lie 100 orders of
# magnitude below g_r: they do not show in the sums.
CEILING = 1e100


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Adam's state *before* the coming step: zeros and ``steps=0`` at the very first.

    ``first`` and ``second`` are the moments m and v, uncorrected, shaped as the gradients; ``steps`` is the number
    of steps taken, the same for every parameter.

    Raises:
        BadInput: betas outside [0, 1), or negative steps or eps.
    """

    first: Gradients
    second: Gradients
    steps: int
    beta1: float
    beta2: float
    eps: float

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise BadInput(f"Adam's betas must lie in [0, 1), got {self.beta1} and {self.beta2}")
        if self.steps < 0 or self.eps < 0:
            raise BadInput(f"Adam's steps and eps cannot be negative, got {self.steps} and {self.eps}")


def preconditioner(moments: Moments, direction: Gradients) -> list[Tensor]:
    """Diagonal of P(direction), one tensor per parameter: of the coming step if its gradient were ``direction``."""
    return [_diagonal(v, d, moments) for v, d in zip(moments.second, direction, strict=True)]


def adam_barrier(gram: Tensor, momentum: Tensor | float, *, eta: float | Tensor, beta1: float) -> Tensor:
    """lambda = max(0, (a - <g_r, g_f>_P - beta1/(1-beta1) <m, g_f>_P) / ||g_f||_P^2),  a = eta ||g_f||_P^2.

    Exact for a P that does not depend on d; Adam's does, see :func:`adam_multiplier`.

    Args:
        gram: [2, 2] in the metric P.
        momentum: <m, g_f>_P, m the first moment before the step; 0 with ``beta1=0`` for the metric alone.
    """
    level = eta * gram[1, 1] - beta1 / (1 - beta1) * momentum
    return quotient(level - gram[0, 1], gram[1, 1]).clamp(min=0)


def adam_multiplier(
    g_r: Gradients,
    g_f: Gradients,
    moments: Moments,
    *,
    eta: float | Tensor,
    momentum: bool = True,
    iterations: int = 12,
    reduce: Reduce = whole,
) -> Tensor:
    """A lambda for which d = g_r + lambda g_f meets the inequality of the step Adam takes, P(d) included; 0-dim fp64.

    d moves P and P moves lambda, so lambda is searched for: an interval whose lower end fails and whose upper end
    holds shrinks by proposals of :func:`adam_barrier` in the metric of the last trial and, every other time after the
    first four, by its geometric middle. The upper end is returned, so the inequality holds whatever the number of
    iterations; more of them bring lambda closer to the least. lambda = 0 is returned where g_r alone holds.

    Args:
        momentum: account for Adam's first moment; without it the rule is that of the metric alone.
        iterations: passes over the gradients, in fp64, one parameter at a time; none waits for the device. Twelve
            take about 0.3 s per million weights on one CPU core; with them lambda is within 2 % of the least that
            holds in 95 of 100 random cases.
        reduce: sum over shards, as for :func:`erasediff.solver.gram.gram`.
    """
    beta1 = moments.beta1 if momentum else 0.0
    trial = torch.zeros((), dtype=torch.float64, device=g_f[0].device)
    low, high = trial, _sufficient(g_r, g_f, moments, eta, beta1, reduce)
    for k in range(iterations):
        metric_gram, pull = _products(trial, g_r, g_f, moments, reduce)
        surplus = metric_gram[0, 1] + (trial - eta) * metric_gram[1, 1] + beta1 / (1 - beta1) * pull
        holds = surplus >= 0
        low, high = torch.where(holds, low, trial), torch.where(holds, trial, high)
        proposal = adam_barrier(metric_gram, pull, eta=eta, beta1=beta1) * (1 + MARGIN)
        inside = (low < proposal) & (proposal < high) if k < 4 or k % 2 else torch.zeros_like(holds)
        trial = torch.where(inside, proposal, (low.maximum(1e-12 * high) * high).sqrt())
    return high


def _sufficient(
    g_r: Gradients, g_f: Gradients, moments: Moments, eta: float | Tensor, beta1: float, reduce: Reduce
) -> Tensor:
    """A lambda that holds under *any* diagonal P, since every element of the sum is then >= 0.

    Element i is P_i f_i (r_i + (lambda - eta) f_i + beta1/(1-beta1) m_i), so |r_i + beta1/(1-beta1) m_i| / |f_i| above
    eta is enough. Twice that, for rounding; the shards' largest are summed, which is at least the largest of all.
    """
    largest = []
    for r, f, m in zip(g_r, g_f, moments.first, strict=True):
        against = (r.double() + beta1 / (1 - beta1) * m.double()).abs()
        largest.append(quotient(against, f.double().abs()).max())
    return (eta + 2 * reduce(torch.stack(largest).max())).clamp(max=CEILING)


def _products(
    multiplier: Tensor, g_r: Gradients, g_f: Gradients, moments: Moments, reduce: Reduce
) -> tuple[Tensor, Tensor]:
    """The Gram matrix [2, 2] and <m, g_f>, in the metric P(g_r + multiplier g_f)."""
    rows = []
    # A parameter at a time and in fp64: no list the size of the model, and no overflow at a large multiplier.
    for r, f, m, v in zip(g_r, g_f, moments.first, moments.second, strict=True):
        r, f = r.double(), f.double()
        metric = _diagonal(v.double(), r + multiplier * f, moments)
        weighed = metric * f
        entries = [metric.mul_(r).mul_(r).sum(), *((weighed * x).sum() for x in (r, f, m.double()))]
        rows.append(torch.stack(entries))
    rr, rf, ff, mf = reduce(torch.stack(rows).sum(0)).unbind()
    return torch.stack([torch.stack([rr, rf]), torch.stack([rf, ff])]), mf


def _diagonal(second: Tensor, direction: Tensor, moments: Moments) -> Tensor:
    # In place on its own square: memory traffic is what a pass costs.
    after = direction.square().mul_(1 - moments.beta2).add_(second, alpha=moments.beta2)
    corrected = after.div_(1 - moments.beta2 ** (moments.steps + 1))
    return corrected.sqrt_().add_(moments.eps).reciprocal_()
