"""The erased model against the retrained one, row by row: beyond a margin, within it, or neither shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from erasediff.auditing.finding import Evidence, Finding
from erasediff.auditing.statistics import CONFIDENCE, block_variance, holm, placements, sign_flips, sum_error

LEVEL = 1 - CONFIDENCE
WORSE, LOWER, EQUAL, UNCLEAR = "beyond the margin", "below by more than the margin", "within the margin", "unclear"

SMALLEST = 1e-6  # error of a difference that is the same in every row

Rows = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``difference``: erased minus retrained, with its 95 % interval.

    ``p_beyond``: that it is at most the margin (above it, or, where ``hidden`` tells too, in either direction), with
    Holm's correction over all comparisons of an audit; ``p_within``: two one-sided tests that it lies inside the
    margins; ``p_permutation``: that there is no difference at all. ``outcome``: one of the four words above.
    """

    name: str
    attack: str
    role: str
    erased: float
    retrained: float
    difference: float
    low: float
    high: float
    margin: float
    n: int
    p_beyond: float
    p_within: float
    p_permutation: float
    needed: bool = True
    outcome: str = UNCLEAR

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(erased: Finding, retrained: Finding, *, seed: int) -> Comparison:
    """Compare two findings of the same name and budget. Both must carry evidence."""
    ours, theirs = _evidence(erased), _evidence(retrained)
    difference = erased.measurement.value - retrained.measurement.value
    columns = _differences(ours, theirs)
    error, freedom = _error(columns, ours)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    distance = abs(difference) if ours.hidden else difference
    return Comparison(
        name=erased.measurement.name,
        attack=ours.attack,
        role=ours.role,
        erased=erased.measurement.value,
        retrained=retrained.measurement.value,
        difference=difference,
        low=max(-1.0, difference - half),
        high=min(1.0, difference + half),
        margin=ours.margin,
        n=erased.measurement.n,
        p_beyond=min(1.0, (2 if ours.hidden else 1) * float(stats.t.sf((distance - ours.margin) / error, freedom))),
        p_within=float(stats.t.sf((ours.margin - abs(difference)) / error, freedom)),
        p_permutation=sign_flips(columns, seed=seed),
        needed=ours.needed,
    )


def settled(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with Holm's correction and the outcome. Equality needs none: all must hold (intersection-union)."""
    adjusted = holm([c.p_beyond for c in comparisons])
    return [
        replace(c, p_beyond=p, outcome=_outcome(replace(c, p_beyond=p)))
        for c, p in zip(comparisons, adjusted, strict=True)
    ]


def compared(erased: Mapping[str, Finding], retrained: Mapping[str, Finding], *, seed: int) -> list[Comparison]:
    """All findings with evidence that both models have, by name."""
    names = [n for n, f in erased.items() if f.evidence is not None and n in retrained]
    return settled([compare(erased[n], retrained[n], seed=seed) for n in names])


def _outcome(comparison: Comparison) -> str:
    if comparison.p_beyond < LEVEL:
        return WORSE if comparison.difference > 0 else LOWER
    return EQUAL if comparison.p_within < LEVEL else UNCLEAR


def _evidence(finding: Finding) -> Evidence:
    if finding.evidence is None:
        raise ValueError(f"{finding.measurement.name} carries no evidence to compare")
    return finding.evidence


def _differences(ours: Evidence, theirs: Evidence) -> list[Rows]:
    """Paired differences, a column for each group of rows; their mean is the difference of the statistic."""
    pairs = zip(_components(ours), _components(theirs), strict=True)
    return [a - b if len(a) == len(b) else _unpaired(a, b) for a, b in pairs]


def _components(evidence: Evidence) -> list[Rows]:
    """Rows whose mean is the statistic; of an AUC its placements."""
    columns = [np.asarray(rows, dtype=np.float64) for rows in evidence.rows]
    return columns if evidence.statistic == "mean" else list(placements(*columns))


def _unpaired(a: Rows, b: Rows) -> Rows:
    """Rows with the mean and the standard error of the difference of two unpaired groups."""
    n = min(len(a), len(b))
    error = np.sqrt(a.var() / len(a) + b.var() / len(b))
    signs = np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
    return np.asarray(a.mean() - b.mean() + error * np.sqrt(n) * (signs - signs.mean()))


def _error(columns: Sequence[Rows], evidence: Evidence) -> tuple[float, float]:
    """Standard error of the mean difference, and the degrees of freedom of its quantile (infinite: the normal one)."""
    if evidence.statistic == "auc":
        error, freedom = sum_error(columns)
        return max(error, SMALLEST), freedom
    (differences,) = columns
    spread = block_variance(differences, evidence.blocks) if len(differences) == len(evidence.rows[0]) else 0.0
    return float(np.sqrt(max(_smoothed(differences) + spread, SMALLEST**2))), float("inf")


def _smoothed(differences: Rows) -> float:
    """Variance of the mean, with two pseudo-pairs, half a discordant one each way (Agresti and Min 2005).

    Without them 0 of 250 against 0 of 250 would be a difference known exactly.
    """
    n = len(differences) + 2
    return float(((np.square(differences).sum() + 1) / n - (differences.sum() / n) ** 2) / n)
