"""Gradient ascent on the forget set, alone or against descent on the retain set.

Golatkar, Achille, Soatto: Eternal Sunshine of the Spotless Net. CVPR 2020, arXiv:1911.04933 (NegGrad).
The denoising loss is unbounded above: neither method has a floor, and both diverge if run for long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from erasediff.data.pairs import Pair
from erasediff.errors import check_finite, check_shares
from erasediff.methods.base import Direction, Needs, State, Stateless, StepContext, record
from erasediff.methods.objectives import Denoise
from erasediff.solver.gram import combine


@dataclass(frozen=True, kw_only=True)
class NegGrad(Stateless):
    """Ascend on the denoising loss of the forget set: d = -grad L(D_f).

    Args:
        null_share: share of samples whose condition is dropped.
    """

    null_share: float = 0.1

    PAPER: ClassVar[str] = "arXiv:1911.04933"
    SUMMARY: ClassVar[str] = "gradient ascent on the forget set alone"
    GRADIENT_LISTS: ClassVar[int] = 2
    needs: ClassVar[Needs] = Needs(retain_set=False)

    def __post_init__(self) -> None:
        check_shares(self, "null_share")

    def direction(self, ctx: StepContext, pair: Pair, state: State) -> Direction:
        (forget,) = ctx.gradients((Denoise(self.null_share), pair.forget))
        return Direction(combine([-1.0], [forget.gradients]), record(forget=forget), state)

    def forward_equivalents(self) -> float:
        return 3


@dataclass(frozen=True, kw_only=True)
class GradDiff(Stateless):
    """Descend on the retain set and ascend on the forget set: d = g_r - weight grad L(D_f).

    Args:
        weight: how strongly the forget set is ascended.
        null_share: share of samples whose condition is dropped.
    """

    weight: float = 0.1
    null_share: float = 0.1

    PAPER: ClassVar[str] = "arXiv:1911.04933"
    SUMMARY: ClassVar[str] = "descent on the retain set, ascent on the forget set"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        check_finite(self, "weight")
        check_shares(self, "null_share")

    def direction(self, ctx: StepContext, pair: Pair, state: State) -> Direction:
        objective = Denoise(self.null_share)
        forget, retain = ctx.gradients((objective, pair.forget), (objective, pair.retain))
        log = record(retain=retain, forget=forget)
        return Direction(combine([1.0, -self.weight], [retain.gradients, forget.gradients]), log, state)

    def forward_equivalents(self) -> float:
        return 6
