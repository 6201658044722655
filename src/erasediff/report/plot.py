"""The ground under a picture with two axes: scales, ticks, grid and marks, as SVG that takes its colours from CSS.

Everything is drawn in the units of one view box; text from users goes in through Markup.format, which escapes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cbrt, ceil, floor, isfinite, log10
from statistics import median

from markupsafe import Markup

WIDTH, HEIGHT = 400, 300
LEFT, RIGHT, TOP, BOTTOM = 54, 26, 12, 52
SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
SHAPES = ("disc", "triangle", "cross", "wedge", "hourglass")
COLOURS = 8  # classes c-0 to c-7 of the style sheet


@dataclass(frozen=True)
class Axis:
    """A scale from values to [0, 1] with the ticks that are written. ``title`` says what is drawn."""

    title: str
    low: float
    high: float
    ticks: Sequence[float]
    bend: Callable[[float], float] = float
    percent: bool = False

    def place(self, value: float) -> float:
        """Where a value stands, 0 to 1; what lies outside stands at the end."""
        held = min(max(value, self.low), self.high)
        low, high = self.bend(self.low), self.bend(self.high)
        return (self.bend(held) - low) / (high - low)

    def text(self, tick: float) -> str:
        return f"{100 * tick:g} %" if self.percent else f"{tick:g}"


def share_axis(title: str, values: Sequence[float]) -> Axis:
    """From 0, with room for what is near 0: a cube-root scale, since the forget rates of good methods differ there."""
    high = _share_above(values)
    crowded = (0.05, 0.75) if high > 0.5 else ()
    ticks = [s for s in SHARES if s <= high and s not in crowded]
    return Axis(title, 0.0, high, ticks, cbrt, percent=True)


def linear_axis(title: str, values: Sequence[float], *, percent: bool = False) -> Axis:
    """From a round number below the values to one above them."""
    low, high = min(values), max(values)
    step = _round_step((high - low) or abs(high) or 1.0)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    last = max(last, first + 1)
    ticks = [round(i * step, 10) for i in range(first, last + 1)]
    return Axis(title, ticks[0], ticks[-1], ticks, percent=percent)


def accuracy_axis(title: str, values: Sequence[float]) -> Axis:
    """Linear; where the most errors are over 5 times the median, by the cube root of the errors up to 1.

    A method that ruins the model would squeeze all others together.
    """
    held = [min(max(v, 0.0), 1.0) for v in values]
    errors = [1 - v for v in held]
    if max(errors) <= 5 * median(errors):
        return linear_axis(title, held, percent=True)
    most = _share_above(errors)
    ticks = [round(1 - s, 10) for s in reversed(SHARES) if s <= most]
    return Axis(title, ticks[0], 1.0, ticks, lambda v: -cbrt(1 - v), percent=True)


def ratio_axis(title: str, values: Sequence[float]) -> Axis:
    """Linear where the values are close to one another, logarithmic where the largest is over 5 times the least."""
    low, high = min(values), max(values)
    if low <= 0 or high <= 5 * low:
        return linear_axis(title, values)
    steps = [m * 10.0**e for e in range(floor(log10(low)), ceil(log10(high)) + 1) for m in (1, 2, 5)]
    below, above = max(s for s in steps if s <= low * 1.001), min(s for s in steps if s >= high * 0.999)
    ticks = [s for s in steps if below <= s <= above]
    return Axis(title, below, above, ticks if len(ticks) <= 7 else ticks[:: ceil(len(ticks) / 7)], log10)


def _share_above(values: Sequence[float]) -> float:
    """The least share of the ticks that holds all ``values``; at least a tenth."""
    return next((s for s in SHARES[3:] if s >= max(values)), 1.0)


def _round_step(span: float) -> float:
    raw = span / 4
    power = 10.0 ** floor(log10(raw))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)


@dataclass(frozen=True)
class Frame:
    """Two axes and where a pair of values stands between them, in units of the view box."""

    x: Axis
    y: Axis

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * self.x.place(x)
        return round(across, 1), round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - self.y.place(y)), 1)

    def svg(self, drawn: Sequence[Markup], told: str) -> Markup:
        """The picture; ``told`` is its content in words."""
        frame = '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>'
        return Markup(frame).format(WIDTH, HEIGHT, told, self._grid(), Markup("").join(drawn))

    def _grid(self) -> Markup:
        line, text = Markup('<path class="grid" d="M{} {}L{} {}"/>'), Markup('<text x="{}" y="{}" class="{}">{}</text>')
        parts = []
        for tick in self.y.ticks:
            (x, y), (end, _) = self.at(self.x.low, tick), self.at(self.x.high, tick)
            parts += [line.format(x, y, end, y), text.format(x - 8, y + 4, "end", self.y.text(tick))]
        for tick in self.x.ticks:
            (x, y), (_, end) = self.at(tick, self.y.low), self.at(tick, self.y.high)
            parts += [line.format(x, y, x, end), text.format(x, y + 18, "middle", self.x.text(tick))]
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(text.format(middle, HEIGHT - 10, "middle title", self.x.title))
        return Markup("").join(parts)

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> Markup:
        """A line through ``points``."""
        path = " ".join("{},{}".format(*self.at(x, y)) for x, y in points)
        return Markup('<polyline class="{}" points="{}"/>').format(kind, path)

    def whiskers(self, x: Bounds, y: Bounds, kind: str) -> Markup:
        """The intervals of one point, as a cross of two lines; a missing bound leaves its line out."""
        lines = []
        for low, high in (((x[1], y[0]), (x[2], y[0])), ((x[0], y[1]), (x[0], y[2]))):
            if all(v is not None and isfinite(v) for v in (*low, *high)):
                (x1, y1), (x2, y2) = self.at(*low), self.at(*high)
                lines.append(Markup('<path class="whisker {}" d="M{} {}L{} {}"/>').format(kind, x1, y1, x2, y2))
        return Markup("").join(lines)


Bounds = tuple[float, float | None, float | None]
"""A value with its lower and upper bound."""

PATHS = {
    "disc": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z",
    "square": "M-4.5 -4.5H4.5V4.5H-4.5Z",
    "diamond": "M0 -6.4L6.4 0L0 6.4L-6.4 0Z",
    "triangle": "M0 -6L5.8 4.6H-5.8Z",
    "wedge": "M0 6L5.8 -4.6H-5.8Z",
    "hourglass": "M-5 -5.5H5L1.5 0L5 5.5H-5L-1.5 0Z",
    "cross": "M-2 -6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
}


def mark(kind: str, x: float = 0, y: float = 0) -> Markup:
    """One mark; ``kind`` is a class string of :func:`styles`, whose first word is the shape."""
    return Markup('<path class="point {}" transform="translate({} {})" d="{}"/>').format(
        kind, x, y, PATHS[kind.split()[0]]
    )


def styles(labels: Sequence[str], hollow: Sequence[str] = ()) -> dict[str, str]:
    """Label -> shape and colour, none twice before every pair was used; base and retrained keep those of an audit."""
    fixed = {"base": "square s-base", "retrained": "diamond s-retrained"}
    rest = [label for label in labels if label not in fixed]
    made = {label: fixed[label] for label in labels if label in fixed}
    for i, label in enumerate(rest):
        shape = SHAPES[(i + i // (COLOURS * len(SHAPES))) % len(SHAPES)]
        made[label] = f"{shape} c-{i % COLOURS}" + (" hollow" if label in hollow else "")
    return made


def legend(kinds: dict[str, str]) -> Markup:
    """The marks with their labels, as a list."""
    item = Markup('<li><svg class="key" viewBox="-8 -8 16 16" aria-hidden="true">{}</svg>{}</li>')
    items = Markup("").join(item.format(mark(kind), label) for label, kind in kinds.items())
    return Markup('<ul class="legend">{}</ul>').format(items)
