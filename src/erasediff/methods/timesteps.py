"""At which time steps a forget objective is asked: where the concept is decided, rather than everywhere alike.

At small noise a denoiser hardly looks at the class, so forget samples drawn there say little about it. A profile of
how far the frozen model's answers under two classes are apart, measured once at theta_0, tells where they matter
(the observation of arXiv:2510.17917, that concepts live in some time steps; the sampling rule is ours).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from erasediff.data.pairs import Batch, Pairs
from erasediff.families.base import Noisy
from erasediff.methods.base import StepContext

BINS = 20
BATCHES = 4


@dataclass(frozen=True)
class Timesteps:
    """A distribution over time steps. ``density``: [bins], sums to 1, equal bins of t; ``None``: uniform."""

    density: Tensor | None = None

    def noised(self, ctx: StepContext, batch: Batch) -> Noisy:
        """The batch noised at time steps drawn from this distribution, a function of (seed, step, role)."""
        if self.density is None:
            return ctx.noised(batch)
        steps = ctx.model.noising.num_train_timesteps
        return ctx.noised(batch, t=drawn(self.density, ctx.uniform(batch, "focused_t"), steps))


UNIFORM = Timesteps()


def drawn(density: Tensor, uniform: Tensor, num_train_timesteps: int) -> Tensor:
    """Time steps [b] by inverting the cumulative ``density`` [bins] at ``uniform`` [b] in [0, 1)."""
    edges = torch.cat([density.new_zeros(1), density.cumsum(0)])
    edges = (edges / edges[-1]).to(uniform)
    bin_ = (torch.searchsorted(edges, uniform, right=True) - 1).clamp(0, len(density) - 1)
    inside = (uniform - edges[bin_]) / (edges[bin_ + 1] - edges[bin_]).clamp_min(1e-12)
    t = ((bin_ + inside) / len(density) * num_train_timesteps).long()
    return t.clamp(0, num_train_timesteps - 1)


def importance(ctx: StepContext, pairs: Pairs, focus: float) -> Tensor:
    """Density [bins]: a share ``focus`` where the frozen model tells the target's class from others, the rest uniform.

    The profile is E ||f_0(x_t, c) - f_0(x_t, c')||^2 over forget samples of class c and drawn other classes c', in
    the model's own prediction type, by equal bins of t. Costs two frozen passes of ``BATCHES`` batches.
    """
    steps, conditions = ctx.model.noising.num_train_timesteps, ctx.model.conditions
    total = torch.zeros(BINS, dtype=torch.float64)
    count = torch.zeros(BINS, dtype=torch.float64)
    for number in range(BATCHES):
        batch = replace(pairs.at(number).forget, role=f"timesteps/{number}")
        noisy = ctx.noised(batch)
        own = ctx.predict(noisy, conditions.own(batch.labels), frozen=True)
        other = conditions.other(batch.labels, ctx.uniform(batch, "other"))
        apart = ctx.divergence(own, ctx.predict(noisy, other, frozen=True)).double().cpu()
        bins = (noisy.t.cpu() * BINS) // steps
        total.index_add_(0, bins, apart)
        count.index_add_(0, bins, torch.ones_like(apart))
    total, count = ctx.averaged(torch.stack([total, count])).unbind()
    profile = torch.where(count > 0, total / count, 0.0)
    uniform = torch.full((BINS,), 1 / BINS, dtype=torch.float64)
    if profile.sum() == 0:  # a model that answers alike under every class has nowhere to look
        return uniform.float()
    return ((1 - focus) * uniform + focus * profile / profile.sum()).float()
