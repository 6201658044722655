"""Time to the target: curves of the median seed and the table of ratios. No seconds are shown, only ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from erasediff.report.numbers import ABSENT, number
from erasediff.report.plot import Axis, Frame, linear_axis, mark, ratio_axis, share_axis
from erasediff.report.race import Bounded, Race, Standing, standings

TITLES = {"forget_rate": "Forget rate", "frechet_ratio": "Fréchet distance, base model = 1"}
LONGEST = 3.0  # times the reference's time to the line: what comes later is cut, or the race itself would not be seen


@dataclass(frozen=True)
class Line:
    """A row of the table of ratios, as text."""

    label: str
    reached: str
    time: str
    spread: str
    steps: str


def lines(race: Race, reference: str | None) -> list[Line]:
    """The standings as text, in the order of the file."""
    return [_line(s) for s in standings(race, reference)]


def _line(found: Standing) -> Line:
    ends = dict.fromkeys(_text(b) for b in (found.least, found.most) if b is not None)
    spread = " to ".join(ends) or ABSENT
    return Line(found.label, f"{found.reached} of {found.runs}", _text(found.middle), spread, number(found.steps, 2))


def _text(ratio: Bounded | None) -> str:
    return ABSENT if ratio is None else ratio.text(f" {number(ratio.value, 2)}").strip()


def curves(race: Race, reference: str | None, kinds: dict[str, str]) -> list[tuple[str, Markup]]:
    """(title, ``<svg>``) for each measure of the race: the median seed of every label, and the line to be reached."""
    unit = race.median(reference).spent if reference in race.labels else max(r.spent for r in race.runs)
    across = linear_axis(_time_title(race, reference), [0.0, _longest(race, unit)])
    return [(title, _curve(race, name, title, across, unit, kinds)) for name, title in TITLES.items()]


def _time_title(race: Race, reference: str | None) -> str:
    if reference not in race.labels:
        return "time, longest run = 1"
    reached = race.median(reference).reached
    return f"time, {reference} {'reaches the line' if reached else 'ends without reaching it'} at 1"


def _longest(race: Race, unit: float) -> float:
    last = [p["seconds"] / unit for label in race.labels for p in race.median(label).points]
    return min(max([1.0, *last]), LONGEST)


def _curve(race: Race, name: str, title: str, across: Axis, unit: float, kinds: dict[str, str]) -> Markup:
    line = race.target_line[name]
    runs = {
        label: [(p["seconds"] / unit, p[name]) for p in race.median(label).points if name in p] for label in race.labels
    }
    shown = {s: _cut(points, across.high) for s, points in runs.items()}
    values = [v for points in shown.values() for _, v in points] + [line]
    up = share_axis(title, values) if name == "forget_rate" else ratio_axis(title, values)
    frame = Frame(across, up)
    drawn = [frame.line([(across.low, line), (across.high, line)], "goal")]
    drawn += [_run(frame, points, kinds[s]) for s, points in shown.items() if points]
    told = "; ".join(f"{s}: ends at {number(points[-1][1], 3)}" for s, points in shown.items() if points)
    return frame.svg(drawn, f"{title} over time, median seed of each method; line at {line:g}. {told}")


def _cut(points: Sequence[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """The curve up to ``end``: where it goes on, its last point lies on the way to the next."""
    inside = [p for p in points if p[0] <= end]
    if not inside or len(inside) == len(points):
        return inside
    (x1, y1), (x2, y2) = inside[-1], points[len(inside)]
    return [*inside, (end, y1 + (y2 - y1) * (end - x1) / (x2 - x1))]


def _run(frame: Frame, points: Sequence[tuple[float, float]], kind: str) -> Markup:
    return frame.line(points, f"run {kind}") + mark(kind, *frame.at(*points[-1]))
