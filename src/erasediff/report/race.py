"""``race.json``: how long each method took to reach one target line, read, checked and put as ratios.

Seconds are of the machine that took them, so only ratios to the reference are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from erasediff.errors import BadInput, listing

SCHEMA = 1
CURVES = ("forget_rate", "frechet_ratio")
NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class Racer:
    """One run of the race. ``points``: dictionaries of seconds, step, forget_rate, frechet_ratio, in order of time.

    ``ended``: whether it came to its own end short of the line, so that more time would not have helped.
    """

    label: str
    seed: int
    reached: bool
    seconds: float | None
    steps: int | None
    limit_seconds: float
    points: Sequence[Mapping[str, float]]
    ended: bool = False

    @property
    def spent(self) -> float:
        """Seconds to the line, or the limit where it was not reached."""
        return self.seconds if self.reached and self.seconds is not None else self.limit_seconds


@dataclass(frozen=True)
class Race:
    target_line: Mapping[str, float]
    runs: Sequence[Racer]

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(r.label for r in self.runs))

    def of(self, label: str) -> list[Racer]:
        """The runs of a label, fastest first; those that did not reach the line stand last."""
        return sorted((r for r in self.runs if r.label == label), key=lambda r: (not r.reached, r.spent, r.seed))

    def median(self, label: str) -> Racer:
        """The run of the median seed (the faster one of two in the middle)."""
        mine = self.of(label)
        return mine[(len(mine) - 1) // 2]


@dataclass(frozen=True)
class Bounded:
    """A ratio, or a bound where one of the two did not reach the line: ``sign`` is "", ">" or "<".

    With the sign ``never`` the value is what the run took to its own end.
    """

    value: float
    sign: str = ""

    @property
    def order(self) -> tuple[float, bool, float]:
        """For sorting: the fastest first, and last what never arrives."""
        first = {"": self.value, "<": 0.0}.get(self.sign, inf)
        return first, self.sign == NEVER, self.value

    def text(self, written: str) -> str:
        """For a table; ``written`` is the value as it is written there."""
        return NEVER if self.sign == NEVER else f"{self.sign}{written}"


@dataclass(frozen=True)
class Standing:
    """Time of one label over that of the reference, seed by seed: median and extremes; ``None`` where unknown."""

    label: str
    reached: int
    runs: int
    middle: Bounded | None
    least: Bounded | None
    most: Bounded | None
    steps: float | None


def standings(race: Race, reference: str | None) -> list[Standing]:
    """Every label against the reference, over the seeds that both ran; where both missed the line nothing is said."""
    theirs = {r.seed: r for r in race.of(reference)} if reference else {}
    return [_standing(race.of(label), theirs) for label in race.labels]


def _standing(mine: Sequence[Racer], theirs: Mapping[int, Racer]) -> Standing:
    shared = [(r, theirs[r.seed]) for r in mine if r.seed in theirs]
    times = sorted((b for r, t in shared if (b := _over(r, t)) is not None), key=lambda b: b.order)
    steps = sorted(r.steps / t.steps for r, t in shared if r.reached and t.reached and r.steps and t.steps)
    reached = sum(r.reached for r in mine)
    middle_steps = _middle(steps) if len(steps) == len(shared) and steps else None
    if not times:
        return Standing(mine[0].label, reached, len(mine), None, None, None, middle_steps)
    return Standing(mine[0].label, reached, len(mine), _median(times), times[0], times[-1], middle_steps)


def _over(mine: Racer, theirs: Racer) -> Bounded | None:
    if not theirs.spent > 0 or not (mine.reached or theirs.reached):
        return None
    late = NEVER if mine.ended else ">"
    sign = late if not mine.reached else "<" if not theirs.reached else ""
    return Bounded(mine.spent / theirs.spent, sign)


def _median(times: Sequence[Bounded]) -> Bounded | None:
    """Of an even number the mean of the two in the middle; a bound where one of them is a bound."""
    low, high = times[(len(times) - 1) // 2], times[len(times) // 2]
    if low.sign == high.sign == NEVER:
        return low
    signs = {low.sign, high.sign} - {""}
    if not signs:
        return Bounded((low.value + high.value) / 2)
    if "<" in signs:
        return Bounded(max(low.value, high.value), "<") if signs == {"<"} else None
    return Bounded(low.value if NEVER in signs else min(low.value, high.value), ">")


def _middle(values: Sequence[float]) -> float:
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def parse(record: Any, where: str) -> Race:
    """The content of ``race.json`` as a Race; ``where`` names it in errors. Raises BadInput for another form."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise BadInput(f"{where} has schema {found!r}; this version reads {SCHEMA}")
    line, runs = record.get("target_line"), record.get("runs")
    if not isinstance(line, dict) or not isinstance(runs, list) or not runs:
        raise BadInput(f"{where} must hold target_line (a mapping of {listing(CURVES)}) and runs (a list, not empty)")
    target = {name: _number(line.get(name), f"{where}: target_line.{name}") for name in CURVES}
    return Race(target, [_racer(run, f"{where}: runs[{i}]") for i, run in enumerate(runs)])


def _racer(run: Any, where: str) -> Racer:
    if not isinstance(run, dict):
        raise BadInput(f"{where} must be a mapping, got {run!r}")
    missing = [k for k in ("label", "seed", "reached", "limit_seconds", "points") if k not in run]
    if missing or not isinstance(run["reached"], bool) or not isinstance(run["points"], list):
        raise BadInput(f"{where} needs label, seed, reached (true or false), limit_seconds and points (a list)")
    points = [_point(p, f"{where}.points[{i}]") for i, p in enumerate(run["points"])]
    limit = _positive(run["limit_seconds"], f"{where}.limit_seconds")
    return Racer(
        label=str(run["label"]),
        seed=int(_number(run["seed"], f"{where}.seed")),
        reached=run["reached"],
        seconds=_positive(run.get("seconds"), f"{where}.seconds") if run["reached"] else None,
        steps=int(_number(run["steps"], f"{where}.steps")) if run.get("steps") is not None else None,
        limit_seconds=limit,
        points=sorted(points, key=lambda p: p["seconds"]),
        ended=run.get("ended") is True and not run["reached"],
    )


def _point(point: Any, where: str) -> dict[str, float]:
    if not isinstance(point, dict):
        raise BadInput(f"{where} must be a mapping, got {point!r}")
    known = {k: point[k] for k in ("step", *CURVES) if point.get(k) is not None}
    found = {k: _number(v, f"{where}.{k}") for k, v in known.items()}
    return {"seconds": _number(point.get("seconds"), f"{where}.seconds"), **found}


def _positive(value: Any, where: str) -> float:
    """All times are put over one of these."""
    if not _number(value, where) > 0:
        raise BadInput(f"{where} must be above 0, got {value!r}")
    return float(value)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or value < 0:
        raise BadInput(f"{where} must be a finite number, at least 0; got {value!r}")
    return float(value)
