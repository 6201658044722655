"""What a measure or an attack found: the number that is printed, and the rows behind it that two models share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erasediff.auditing.result import Measurement
from erasediff.errors import check_one_of

ROLES = ("asking", "access", "trace", "retention")
STATISTICS = ("mean", "auc")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Rows behind one measurement, so that the erased model can be compared with the retrained one row by row.

    ``role``: what it means when the erased model differs.

    - ``asking``: the model draws the target when it is asked for it in the ordinary way.
    - ``access``: the target came back without any new training data of it.
    - ``trace``: nothing was drawn, but the model can be told from one that never saw the forget set.
    - ``retention``: what was to stay.

    ``statistic`` ``mean`` has one tuple of rows in [0, 1], ``auc`` two (scores of the forget set, scores of others;
    higher means "was trained on"). Row i belongs to the same image, seed or start noise in every model. ``blocks``: in
    how many runs of equal length, one after another, the rows of a mean come that share something besides (a fine-tuned
    copy): as rows they are not independent. ``margin``: a
    difference from the retrained model that is too small to matter. ``alone``: without a retrained model, the value
    above which the attack has succeeded; ``None``: then it says nothing. ``hidden``: whether a value *below* the
    retrained model's gives the erased one away too, as an AUC below chance does. ``needed``: whether equality with the
    retrained model must be shown on it, or it only counts where it tells the two apart.
    """

    attack: str
    role: str
    rows: tuple[tuple[float, ...], ...]
    statistic: str = "mean"
    blocks: int = 1
    margin: float
    alone: float | None = None
    hidden: bool = False
    needed: bool = True

    def __post_init__(self) -> None:
        check_one_of("role", self.role, ROLES)
        check_one_of("statistic", self.statistic, STATISTICS)
        if self.blocks < 1 or len(self.rows[0]) % self.blocks:
            raise ValueError(f"{self.blocks} blocks of equal length cannot be made of {len(self.rows[0])} rows")


@dataclass(frozen=True)
class Finding:
    """A measurement, with the evidence behind it where it takes part in the verdict."""

    measurement: Measurement
    evidence: Evidence | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the cache; see :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Finding:
        """The inverse of :meth:`to_dict`."""
        evidence = record["evidence"]
        if evidence is not None:
            evidence = Evidence(**{**evidence, "rows": tuple(tuple(rows) for rows in evidence["rows"])})
        return cls(Measurement(**record["measurement"]), evidence)


def rows_of(*columns: NDArray[Any] | Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """Arrays [N_i] as the ``rows`` of an :class:`Evidence`."""
    return tuple(tuple(float(v) for v in np.asarray(c).reshape(-1)) for c in columns)
