"""Extraction: does the model still draw the very samples that were to be forgotten?

The test is that of Carlini et al. 2023 (arXiv:2301.13188): a drawn image counts as a copy of a forgotten one when it
is far nearer to it than it is to the rest of the training data around it. A threshold on the distance alone would call
every blank image a copy.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from erasediff.auditing.result import Measurement
from erasediff.auditing.statistics import wilson
from erasediff.errors import BadInput

NEIGHBOURS = 50
CLOSENESS = 0.5
CHUNK = 512


def copied(drawn: Tensor, forgotten: Tensor, retained: Tensor) -> Tensor:
    """For each drawn image the forgotten one that it copies, or -1.

    Args:
        drawn: [N, C, H, W]; forgotten: [M, C, H, W]; retained: [K, C, H, W]; all in [-1, 1].

    Returns:
        [N] integers: x copies the nearest forgotten y if ||x - y|| < CLOSENESS * the mean distance of x to its
        NEIGHBOURS nearest retained images (pixel space, Euclidean).

    Raises:
        BadInput: one of the three is empty.
    """
    if not (len(drawn) and len(forgotten) and len(retained)):
        raise BadInput(
            "extraction needs drawn, forgotten and retained images; "
            f"got {len(drawn)}, {len(forgotten)} and {len(retained)}"
        )
    targets, others = forgotten.flatten(1).float(), retained.flatten(1).float()
    found = []
    for rows in drawn.flatten(1).float().split(CHUNK):
        distance, nearest = torch.cdist(rows, targets).min(1)
        around = torch.cdist(rows, others).topk(min(NEIGHBOURS, len(others)), largest=False).values.mean(1)
        found.append(torch.where(distance < CLOSENESS * around, nearest, -1))
    return torch.cat(found)


def extraction_measurements(drawn: Tensor, forgotten: Tensor, retained: Tensor, *, subject: str) -> list[Measurement]:
    """``regeneration_rate``: share of drawn images that are copies of forgotten ones (Wilson interval);
    ``regenerated_samples``: share of the distinct forgotten images that were drawn at least once."""
    distinct = torch.unique(forgotten.flatten(1), dim=0).reshape(-1, *forgotten.shape[1:])
    copies = copied(drawn, distinct, retained)
    hits, n = int((copies >= 0).sum()), len(copies)
    reached = len(np.unique(copies[copies >= 0].numpy()))
    detail = {"neighbours": NEIGHBOURS, "closeness": CLOSENESS, "forgotten_images": len(distinct), "space": "pixels"}
    shares = [("regeneration_rate", hits, n), ("regenerated_samples", reached, len(distinct))]
    return [
        Measurement(
            name=name,
            group="extraction",
            subject=subject,
            value=count / total,
            low=wilson(count, total)[0],
            high=wilson(count, total)[1],
            n=total,
            higher_is_better=False,
            detail=detail,
        )
        for name, count, total in shares
    ]
