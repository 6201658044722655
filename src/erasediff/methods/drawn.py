"""Images that a method has the frozen model draw once, in place of those of its batches."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from erasediff.data.images import as_floats
from erasediff.data.pairs import Batch
from erasediff.methods.base import StepContext


def showing_drawn(ctx: StepContext, batch: Batch, images: Tensor, purpose: str) -> Batch:
    """``batch`` on as many of the drawn ``images``, uint8 [n, C, H, W], anew at each step; ``index`` [b]: which."""
    rows = (ctx.uniform(batch, purpose) * len(images)).long().clamp(max=len(images) - 1)
    return replace(batch.showing(as_floats(images[rows])), index=rows)
