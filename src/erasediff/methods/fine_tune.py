"""Fine-tuning on the retain set alone: the control that every erasure must be compared with, and plain training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from erasediff.data.pairs import Pair
from erasediff.errors import check_shares
from erasediff.methods.base import Direction, Needs, State, Stateless, StepContext, record
from erasediff.methods.objectives import Denoise


@dataclass(frozen=True, kw_only=True)
class FineTune(Stateless):
    """Descend on the denoising loss of the retain set.

    Args:
        null_share: share of samples whose condition is dropped, for classifier-free guidance.
    """

    null_share: float = 0.1

    PAPER: ClassVar[str] = "arXiv:2006.11239"
    SUMMARY: ClassVar[str] = "denoising loss on the retain set alone: the control"
    GRADIENT_LISTS: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(forget_set=False)

    def __post_init__(self) -> None:
        check_shares(self, "null_share")

    def direction(self, ctx: StepContext, pair: Pair, state: State) -> Direction:
        (retain,) = ctx.gradients((Denoise(self.null_share), pair.retain))
        return Direction(retain.gradients, record(retain=retain), state)

    def forward_equivalents(self) -> float:
        return 3
