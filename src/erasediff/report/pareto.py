"""Forgetting against retention: one mark a method, and the front of those that no other beats on both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite

from markupsafe import Markup

from erasediff.auditing.result import Measurement
from erasediff.report.aggregate import MODEL, Aggregate, Mean, contenders, mean_of
from erasediff.report.numbers import number
from erasediff.report.plot import Axis, Bounds, Frame, accuracy_axis, mark, ratio_axis, share_axis

FORGET, DISTANCE, ACCURACY, RATIO = "forget_rate", "frechet_distance", "retain_accuracy", "frechet_ratio"


@dataclass(frozen=True)
class Picture:
    """One measure of retention against the forget rate. ``front``: labels, from the lowest forget rate on."""

    y: str
    title: str
    higher_is_better: bool
    points: dict[str, tuple[Mean, Mean]]
    front: list[str]
    kinds: dict[str, str]


def pictures(found: Sequence[Aggregate]) -> list[Picture]:
    """Forget rate against the Frechet distance over the base model's, and against the accuracy of what is retained.

    Only methods that may be ranked can stand on the front; every label with numbers has a mark. Without a base model
    the distance stands as it is.
    """
    runs = [r for a in found if a.label == "base" for r in a.runs if DISTANCE in r.measures]
    based = {r.pair: r.measures[DISTANCE].value for r in runs}
    ratios = _ratios(found, based)
    name = RATIO if based else DISTANCE
    title = "Fréchet distance, base model = 1" if based else "Fréchet distance"
    accuracy = {a.label: a.measures[ACCURACY] for a in found if ACCURACY in a.measures}
    wanted = [(name, title, False, ratios), (ACCURACY, "accuracy of the other classes", True, accuracy)]
    return [p for y, said, higher, means in wanted if (p := _picture(found, y, said, higher, means)).points]


def _picture(found: Sequence[Aggregate], y: str, title: str, higher: bool, means: dict[str, Mean]) -> Picture:
    points = {
        a.label: (a.measures[FORGET], means[a.label])
        for a in found
        if FORGET in a.measures and a.label in means and isfinite(means[a.label].value)
    }
    ranked = [a.label for a in contenders(found) if a.label in points]
    front = [label for label in ranked if not any(_beats(points[o], points[label], higher) for o in ranked)]
    front.sort(key=lambda label: (points[label][0].value, points[label][1].value))
    return Picture(y, title, higher, points, front, {a.label: a.kind for a in found if a.label in points})


def _beats(one: tuple[Mean, Mean], other: tuple[Mean, Mean], higher: bool) -> bool:
    """At least as good on both, and better on one."""
    sign = -1 if higher else 1
    mine, theirs = (one[0].value, sign * one[1].value), (other[0].value, sign * other[1].value)
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def _ratios(found: Sequence[Aggregate], base: Mapping[tuple[str, int | None], float]) -> dict[str, Mean]:
    """Mean over runs of the distance over that of the base model of the same target and seed (or of all seeds)."""
    made = {}
    for a in found:
        scaled = []
        for run in (r for r in a.runs if DISTANCE in r.measures):
            below = base.get(run.pair, base.get((run.target, None))) if base else 1.0
            if below:
                scaled.append(_scaled(run.measures[DISTANCE], below))
        if scaled:
            made[a.label] = mean_of(scaled)
    return made


def _scaled(found: Measurement, below: float) -> Measurement:
    low, high = (None if bound is None else bound / below for bound in (found.low, found.high))
    return replace(found, value=found.value / below, low=low, high=high)


def draw(picture: Picture, kinds: dict[str, str]) -> Markup:
    """The picture as ``<svg>``; ``kinds``: label -> classes of its mark."""
    across = share_axis("forget rate (cube-root scale)", _shown([x for x, _ in picture.points.values()]))
    up = _up(picture)
    frame = Frame(across, up)
    drawn = [_front(frame, picture)] if len(picture.front) > 1 else []
    # What is shown for orientation lies below the methods, whiskers below all marks.
    order = sorted(picture.points, key=lambda s: picture.kinds[s] != MODEL)
    drawn += [frame.whiskers(_bounds(x), _bounds(y), kinds[s]) for s in order for x, y in [picture.points[s]]]
    drawn += [mark(kinds[s], *frame.at(x.value, y.value)) for s in order for x, y in [picture.points[s]]]
    said = "; ".join(f"{s}: {number(x.value, 3)}, {number(y.value, 3)}" for s, (x, y) in picture.points.items())
    front = ", ".join(picture.front) or "none"
    return frame.svg(drawn, f"Forget rate and {picture.title} of each method. {said}. Front: {front}")


def _up(picture: Picture) -> Axis:
    values = _shown([y for _, y in picture.points.values()])
    if picture.y == ACCURACY:
        return accuracy_axis(picture.title, values)
    return ratio_axis(picture.title, values)


def _shown(means: Sequence[Mean]) -> list[float]:
    """What the axis must hold: the values, and of the bounds as much as does not squeeze the values together.

    Over two runs Student's interval is wide beyond use; such a whisker runs to the edge of the picture.
    """
    values = [m.value for m in means]
    room = max(0.5 * (max(values) - min(values)), 0.05 * abs(max(values, key=abs)), 1e-9)
    low, high = max(min(values) - room, min(values) / 2), max(values) + room
    bounds = [b for m in means for b in (m.low, m.high) if b is not None and isfinite(b)]
    return values + [min(max(b, low), high) for b in bounds]


def _front(frame: Frame, picture: Picture) -> Markup:
    """A staircase: between two methods of the front nothing better is known than the worse of the two."""
    places = [(picture.points[s][0].value, picture.points[s][1].value) for s in picture.front]
    steps = [places[0]]
    for (_, y), (x, new) in pairwise(places):
        steps += [(x, y), (x, new)]
    return frame.line(steps, "front")


def _bounds(mean: Mean) -> Bounds:
    return mean.value, mean.low, mean.high
