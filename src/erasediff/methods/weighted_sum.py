"""EraseDiff with a constant multiplier: the weighted sum that the released code of arXiv:2401.05779 amounts to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from erasediff.methods.erasediff import EraseDiff


@dataclass(frozen=True, kw_only=True)
class WeightedSum(EraseDiff):
    """d = g_r + multiplier * g_f, with EraseDiff's objectives."""

    rule: str = "constant"

    SUMMARY: ClassVar[str] = "EraseDiff's objectives under a constant multiplier"
