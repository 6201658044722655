"""Runs of one method taken together: means over seeds and targets with intervals, and what became of each run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from erasediff.auditing.result import Measurement
from erasediff.auditing.statistics import t_interval
from erasediff.report.vocabulary import MEASURES

METHOD, CONTROL, MODEL = "method", "control", "model"
COMPLETED, NOT_RUN = "completed", "not run yet"
DIVERGED = "diverged"
SIGNED = ("kernel_distance",)
"""Measures that may fall below 0; all others that the vocabulary knows are counts, shares or norms."""
COSTS = {
    "seconds": "Seconds",
    "steps": "Steps",
    "forward_equivalents": "Forward equivalents",
    "peak_memory_bytes": "Peak memory",
    "preparation_seconds": "Preparation, seconds",
}
"""Entries of ``cost`` in run.json and their titles, in the order of the table."""


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run of a comparison, whatever became of it.

    ``kind``: method, control, or model (base and retrained, which are shown for orientation). ``seed`` is ``None``
    where a model serves all seeds. ``cost``: entries of run.json's cost that cover the whole run. ``record`` and
    ``setting``: run.json and the setting of the audit, as far as there are any.
    """

    label: str
    kind: str = METHOD
    target: str
    seed: int | None
    status: str
    detail: str = ""
    path: str = ""
    measures: Mapping[str, Measurement] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    setting: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] | None = None

    @property
    def pair(self) -> tuple[str, int | None]:
        """What two runs of different methods must share to be compared pairwise."""
        return (self.target, self.seed)

    @property
    def measured(self) -> bool:
        return bool(self.measures)

    @property
    def beside(self) -> bool:
        """Whether it is no run of the comparison, but a model that came along with the audits for orientation."""
        return self.kind == MODEL or not self.path


@dataclass(frozen=True)
class Mean:
    """A mean over ``runs`` runs. ``spread``: where low and high come from: "runs", the "own" interval, or "none"."""

    value: float
    low: float | None
    high: float | None
    runs: int
    samples: int
    spread: str


@dataclass(frozen=True)
class Aggregate:
    """All runs of one label."""

    label: str
    kind: str
    runs: Sequence[RunRow]
    measures: Mapping[str, Mean]
    cost: Mapping[str, Mean]

    @property
    def measured(self) -> int:
        return sum(r.measured for r in self.runs)

    @property
    def statuses(self) -> dict[str, int]:
        """Status -> number of runs, in the order of appearance."""
        return dict(Counter(r.status for r in self.runs))

    @property
    def diverged(self) -> int:
        return self.statuses.get(DIVERGED, 0)


def aggregate(rows: Iterable[RunRow]) -> list[Aggregate]:
    """The rows by label, labels in the order of their first row; no row is dropped."""
    by_label: dict[str, list[RunRow]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    return [_aggregate(label, mine) for label, mine in by_label.items()]


def _aggregate(label: str, rows: Sequence[RunRow]) -> Aggregate:
    names = dict.fromkeys(name for row in rows for name in row.measures)
    measures = {n: mean_of([r.measures[n] for r in rows if n in r.measures]) for n in names}
    # What a run cost that diverged early looks like a bargain; it stays with the run and is in no mean.
    spent = [r.cost for r in rows if r.status != DIVERGED]
    cost = {n: _mean_cost([c[n] for c in spent if n in c]) for n in COSTS if any(n in c for c in spent)}
    return Aggregate(label, rows[0].kind, rows, measures, cost)


def mean_of(found: Sequence[Measurement]) -> Mean:
    """The mean of one measure over runs, with Student's interval over the runs.

    One run, or runs that all gave the same value, have no spread: then the interval is the widest of their own, which
    covers the sampling of images and not the training. Bounds stay within what the measure can be.
    """
    values = [m.value for m in found]
    mean, samples = sum(values) / len(values), sum(m.n for m in found)
    if len(values) > 1 and max(values) != min(values):
        low, high = _possible(found[0].name, *t_interval(values))
        return Mean(mean, low, high, len(values), samples, "runs")
    lows, highs = [m.low for m in found if m.low is not None], [m.high for m in found if m.high is not None]
    if not lows or not highs:
        return Mean(mean, None, None, len(values), samples, "none")
    return Mean(mean, min(lows), max(highs), len(values), samples, "own")


def _possible(name: str, low: float, high: float) -> tuple[float, float]:
    if name not in MEASURES or name in SIGNED:
        return low, high
    return max(low, 0.0), min(high, 1.0) if MEASURES[name].share else high


def _mean_cost(values: Sequence[float]) -> Mean:
    mean = sum(values) / len(values)
    if len(values) < 2 or max(values) == min(values):
        return Mean(mean, None, None, len(values), len(values), "none")
    low, high = t_interval(values)
    return Mean(mean, max(low, 0.0), high, len(values), len(values), "runs")


def contenders(found: Sequence[Aggregate]) -> list[Aggregate]:
    """The methods whose means may be ranked: none diverged, and as many (target, seed) pairs measured as any other.

    A method that lost a run would be flattered by the runs it kept, and means over other seeds or targets are means of
    something else. The control does not try to forget, so it is not ranked either.
    """
    methods = [a for a in found if a.kind == METHOD]
    pairs = {a.label: {r.pair for r in a.runs if r.measured} for a in methods}
    most = set().union(*pairs.values())
    return [a for a in methods if most and pairs[a.label] == most and not a.diverged]


def best(found: Sequence[Aggregate], name: str, *, higher_is_better: bool) -> set[str]:
    """Labels of the contenders with the best mean of a measure; none where there is nobody to be better than."""
    means = {a.label: a.measures[name].value for a in contenders(found) if name in a.measures}
    means = {label: value for label, value in means.items() if isfinite(value)}
    if len(means) < 2:
        return set()
    reached = max(means.values()) if higher_is_better else min(means.values())
    winners = {label for label, value in means.items() if value == reached}
    return winners if len(winners) < len(means) else set()


def ratio(found: Aggregate, to: Aggregate | None, name: str) -> float | None:
    """Mean cost of ``found`` over that of ``to``, over the (target, seed) pairs that both have; ``None`` without."""
    if to is None:
        return None
    mine, theirs = (
        {r.pair: r.cost[name] for r in a.runs if name in r.cost and r.status != DIVERGED} for a in (found, to)
    )
    shared = mine.keys() & theirs.keys()
    below = sum(theirs[p] for p in shared)
    return sum(mine[p] for p in shared) / below if below > 0 else None
