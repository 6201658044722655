"""Which classes look like the forgotten one, as the frozen model itself tells: two uses of one table of distances.

The distance of two classes is that of its answers under them, squared, at the same noisy forget samples.

- A mean over classes that resemble the forgotten one still looks like it, so a forget sample is rather relabelled to
  those that do not: drawn in proportion to a power of the distance.
- What takes a class out moves the classes that resemble it, so these are held harder: a share of the retain loss falls
  on them, in inverse proportion to the same power.

Both are ours; no paper is known to us.
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
HELD = 4.0
MOST = 128  # classes: each costs BATCHES frozen batches, and a mean over so many hardly resembles one of them


def distances(ctx: StepContext, pairs: Pairs) -> Tensor | None:
    """E ||f_0(x_t, c) - f_0(x_t, c')||^2 over forget samples of class c: [num_classes, num_classes], rows c.

    Rows of classes without forget samples stay 1. Costs ``BATCHES`` frozen batches for each class of the model.
    ``None`` where it has more than ``MOST`` classes (or captions): all count alike.
    """
    conditions = ctx.model.conditions
    size = conditions.num_classes
    if size > MOST:
        return None
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


def distant(found: Tensor) -> Tensor:
    """Weights for :meth:`ClassConditions.other`: distances to a power, the largest of each row 1; a row of zeros is
    one of ones.
    """
    most = found.max(1, keepdim=True).values
    weights = torch.where(most > 0, found / most.clamp_min(torch.finfo(found.dtype).tiny), torch.ones_like(found))
    # Never quite 0: where only excluded classes are distant, one of the others must still be drawn.
    return (weights**POWER).clamp_min(LEAST)


CHOICES: dict[str, Callable[[Tensor], Tensor] | None] = {"uniform": None, "distant": distant}
"""Name -> what makes weights of the distances; ``None``: all classes are drawn alike."""


def held(found: Tensor, pairs: Pairs, share: float) -> Tensor:
    """How much the retain loss of each class counts [num_classes], 1 in the mean over the retained samples.

    ``share`` of it goes in inverse proportion to :func:`distant`, in the mean over the target's classes; what would
    make a class count for more than ``HELD`` times its part goes to all alike.
    """
    labels = pairs.data.labels
    if labels is None or pairs.forget is None:
        return torch.ones(len(found))
    part = torch.bincount(labels[pairs.retain.indices].cpu(), minlength=len(found)).double()
    part /= part.sum()
    target = labels[pairs.forget.indices].unique().cpu()
    close = (1 / distant(found)[target].double()) * (part > 0)
    close = (close / (close @ part)[:, None]).mean(0)
    counts = (1 - share + share * close).clamp_max(HELD)
    return (counts + 1 - counts @ part).float()
