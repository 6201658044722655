"""Which other class a forget sample is relabelled to: any, or rather those that look least like its own.

A mean over classes that resemble the forgotten one still looks like it. The frozen model itself tells which do: the
squared distance of its answers under the two classes, at the same noisy forget samples. Classes are then drawn in
proportion to a power of that distance (ours; no paper is known to us).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from erasediff.data.pairs import Pairs
from erasediff.methods.base import StepContext

BATCHES = 2
POWER = 2.0  # of the squared distance
LEAST = 1e-6
MOST = 128  # classes: each costs BATCHES frozen batches, and a mean over so many hardly resembles one of them


def distances(ctx: StepContext, pairs: Pairs) -> Tensor:
    """E ||f_0(x_t, c) - f_0(x_t, c')||^2 over forget samples of class c: [num_classes, num_classes], rows c.

    Rows of classes without forget samples stay 1. Costs ``BATCHES`` frozen batches for each class of the model.
    """
    conditions = ctx.model.conditions
    size = conditions.num_classes
    total, count = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, 1, dtype=torch.float64)
    for number in range(BATCHES):
        batch = replace(pairs.at(number).forget, role=f"others/{number}")
        noisy = ctx.noised(batch)
        own_labels = conditions.own(batch.labels)
        if own_labels is None:
            return torch.ones(size, size)
        own = ctx.predict(noisy, own_labels, frozen=True)
        rows = own_labels.cpu()
        for other in conditions.classes():
            answer = ctx.predict(noisy, torch.full_like(own_labels, other), frozen=True)
            total[:, other].index_add_(0, rows, ctx.divergence(own, answer).double().cpu())
        count.index_add_(0, rows, torch.ones(len(rows), 1, dtype=torch.float64))
    total, count = ctx.averaged(total), ctx.averaged(count)
    return torch.where(count > 0, total / count, torch.ones_like(total)).float()


def distant(ctx: StepContext, pairs: Pairs) -> Tensor | None:
    """Weights for :meth:`ClassConditions.other`: distances to a power, the largest of each row 1; a row of zeros is
    one of ones. ``None``, all alike, where the model has more than ``MOST`` classes (or captions).
    """
    if ctx.model.conditions.num_classes > MOST:
        return None
    found = distances(ctx, pairs)
    most = found.max(1, keepdim=True).values
    weights = torch.where(most > 0, found / most.clamp_min(torch.finfo(found.dtype).tiny), torch.ones_like(found))
    # Never quite 0: where only excluded classes are distant, one of the others must still be drawn.
    return (weights**POWER).clamp_min(LEAST).to(ctx.weights()[0].device)


def uniform(ctx: StepContext, pairs: Pairs) -> None:
    """No weights: all classes are drawn alike."""


CHOICES: dict[str, Callable[[StepContext, Pairs], Tensor | None]] = {"uniform": uniform, "distant": distant}
"""Name -> what prepares the weights."""
