"""Tables of a comparison: a row a method, a column a measure or a cost; no row is left out for want of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from erasediff.report.aggregate import COMPLETED, COSTS, DIVERGED, MODEL, Aggregate, Mean, ratio
from erasediff.report.compared import Comparison
from erasediff.report.numbers import ABSENT, count, decimals, interval, number
from erasediff.report.vocabulary import group_title, measure

MAIN = (
    "forget_rate",
    "forget_rate_unconditional",
    "retain_accuracy",
    "retain_accuracy_worst",
    "frechet_distance",
)
WIDEST = 6  # columns of numbers that fit beside a label
GIB = 2**30


@dataclass(frozen=True)
class Column:
    title: str
    explanation: str = ""
    arrow: str = ""

    @property
    def direction(self) -> str:
        return {"↑": "higher is better", "↓": "lower is better"}.get(self.arrow, "")


@dataclass(frozen=True)
class Cell:
    """A number as text, its interval, and whether it is the best of its column."""

    value: str = ABSENT
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A row: label, what it is (control, base), what became of its runs, its cells."""

    label: str
    role: str
    runs: str
    trouble: str
    cells: list[Cell]


@dataclass(frozen=True)
class Grid:
    title: str
    columns: list[Column]
    lines: list[Line]


def main_grid(found: Comparison) -> Grid:
    """The table that is read first: forgetting, retention, and time against the reference."""
    names = [n for n in MAIN if n in found.measures()]
    columns = [_column(found, n) for n in names]
    cells = [[_measure_cell(found, a, n) for n in names] for a in found.aggregates]
    if any(a.cost for a in found.aggregates) and found.reference:
        said = "seconds of erasing, over the same seeds and targets"
        columns.append(Column(f"Time, {found.reference} = 1", said, "↓"))
        for mine, a in zip(cells, found.aggregates, strict=True):
            mine.append(_ratio_cell(found, a, "seconds", found.reference))
    return _grid(found, "Side by side", columns, cells)


def group_grids(found: Comparison) -> list[Grid]:
    """Every measure, a table a group; wide groups are cut."""
    groups = {m.name: m.group for row in found.rows for m in row.measures.values()}
    made = []
    for title, members in groupby(found.measures(), key=lambda n: group_title(measure(n, groups[n]).group)):
        names = list(members)
        for start in range(0, len(names), WIDEST):
            part = names[start : start + WIDEST]
            cells = [[_measure_cell(found, a, n) for n in part] for a in found.aggregates]
            head = title if not start else f"{title}, continued"
            made.append(_grid(found, head, [_column(found, n) for n in part], cells))
    return made


def cost_grid(found: Comparison) -> Grid | None:
    """Seconds with their ratios to the reference and to the control, steps, forward equivalents, memory."""
    names = [n for n in COSTS if any(n in a.cost for a in found.aggregates)]
    if not names:
        return None
    against = [s for s in (found.reference, found.control) if s is not None and (a := found.find(s)) and a.cost]
    titles = {**COSTS, "peak_memory_bytes": "Peak memory, GiB"}
    columns = [Column(titles[names[0]]), *(Column(f"Time, {s} = 1") for s in against)]
    columns += [Column(titles[n]) for n in names[1:]]
    cells = [
        [
            _cost_cell(found, a, names[0]),
            *(_ratio_cell(found, a, names[0], s) for s in against),
            *(_cost_cell(found, a, n) for n in names[1:]),
        ]
        for a in found.aggregates
    ]
    keep = [i for i, a in enumerate(found.aggregates) if a.kind != MODEL]
    grid = _grid(found, "What it cost", columns, cells)
    return Grid(grid.title, grid.columns, [grid.lines[i] for i in keep])


def _grid(found: Comparison, title: str, columns: list[Column], cells: Sequence[list[Cell]]) -> Grid:
    return Grid(title, columns, [_line(found, a, mine) for a, mine in zip(found.aggregates, cells, strict=True)])


def _line(found: Comparison, a: Aggregate, cells: list[Cell]) -> Line:
    role = "the control" if a.label == found.control else "the reference" if a.label == found.reference else ""
    if a.kind == MODEL:
        role = {"base": "before erasing", "retrained": "never saw the target"}.get(a.label, "")
    runs = count(a.measured) if a.measured == len(a.runs) else f"{a.measured} of {len(a.runs)}"
    return Line(a.label, role, runs, trouble(a), cells)


def trouble(found: Aggregate) -> str:
    """What became of the runs that did not simply finish: ``1 diverged, 2 not run yet``; empty where all did."""
    odd = {s: n for s, n in found.statuses.items() if s != COMPLETED}
    if len(odd) == 1 and len(found.runs) == next(iter(odd.values())):
        return next(iter(odd))
    return ", ".join(f"{n} {status}" for status, n in odd.items())


def _column(found: Comparison, name: str) -> Column:
    known = measure(name, "")
    return Column(known.title, known.explanation, "↑" if found.measures()[name] else "↓")


def _measure_cell(found: Comparison, a: Aggregate, name: str) -> Cell:
    if name not in a.measures:
        return _absent(a)
    means = [b.measures[name].value for b in found.aggregates if name in b.measures]
    places = 3 if measure(name, "").share else decimals(means)
    return _cell(a.measures[name], places, a.label in found.best(name))


def _cost_cell(found: Comparison, a: Aggregate, name: str) -> Cell:
    if name not in a.cost:
        return _absent(a)
    unit = GIB if name == "peak_memory_bytes" else 1
    means = [b.cost[name].value / unit for b in found.aggregates if name in b.cost]
    # Rounded first: a time below half a hundredth of a second is no time, not 5e-6 of one.
    places = 0 if name == "steps" else decimals(means, most=2)
    mean = a.cost[name]
    value, low, high = (None if v is None else round(v / unit, places) for v in (mean.value, mean.low, mean.high))
    return Cell(number(value, places), interval(low, high, places))


def _ratio_cell(found: Comparison, a: Aggregate, name: str, to: str) -> Cell:
    over = ratio(a, found.find(to), name)
    return _absent(a) if over is None else Cell(number(over, 2))


def _absent(a: Aggregate) -> Cell:
    return Cell(DIVERGED if a.diverged and not a.measured else ABSENT)


def _cell(mean: Mean, places: int, best: bool) -> Cell:
    return Cell(number(mean.value, places), interval(mean.low, mean.high, places), best)
