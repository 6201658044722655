"""MUNBa: retain and forget bargain over the step, and each gains as much as the other.

Wu, Harandi: MUNBa: Machine Unlearning via Nash Bargaining. ICCV 2025, arXiv:2411.15537.

    d = w_r g_r + w_f g_f   with   <d, g_r> / ||g_r|| = <d, g_f> / ||g_f||

The weights are the rule ``munba``, :func:`erasediff.solver.weighting.munba`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from erasediff.methods.erasediff import EraseDiff


@dataclass(frozen=True, kw_only=True)
class MUNBa(EraseDiff):
    """The bargain of two players, with EraseDiff's forget targets.

    The retain loss is the ordinary one, as in the paper: distillation begins without a gradient, and a player who wants
    nothing cannot bargain. Every class counts alike in it.
    """

    rule: str = "munba"
    retain: str = "denoise"
    retain_focus: float | None = 0.0
    residual: float | None = 0.0

    PAPER: ClassVar[str] = "arXiv:2411.15537"
    SUMMARY: ClassVar[str] = "EraseDiff's forget targets, weighed by Nash bargaining"
