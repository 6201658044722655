"""Relearning curves as SVG: the target's share against the steps of fine-tuning, one line a subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from erasediff.auditing.result import AuditResult, Measurement
from erasediff.report.numbers import percent
from erasediff.report.story import relearning_measures
from erasediff.report.vocabulary import ordered_subjects, subject_class

WIDTH, HEIGHT = 370, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 48
MARK = 4.5  # half the width of a mark

Points = Sequence[tuple[float, float]]  # (step, share)


def relearning(result: AuditResult) -> list[tuple[str, Markup]]:
    """(on what, ``<svg>``) for each k of relearning, then for training on the retain set alone.

    Curves without a finite point are left out.
    """
    curves: dict[str, dict[str, Points]] = {}
    for subject in ordered_subjects(result.subjects()):
        found = [(f"{k} forgotten image{'' if k == '1' else 's'}", m) for k, m in relearning_measures(result, subject)]
        if kept := result.find("attack_success_retain_training", subject):
            found.append(("the retain set alone", kept))
        for what, measured in found:
            if points := _points(measured):
                curves.setdefault(what, {})[subject] = points
    return [(what, _svg(what, lines)) for what, lines in curves.items()]


@dataclass(frozen=True)
class _Frame:
    """Where a step and a share stand in the drawing."""

    last: float

    def at(self, step: float, share: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / self.last
        return round(x, 1), round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(share, 0.0), 1.0)), 1)


def _svg(what: str, lines: Mapping[str, Points]) -> Markup:
    frame = _Frame(max(step for points in lines.values() for step, _ in points) or 1.0)
    drawn = Markup("").join([_grid(frame), *(_line(frame, s, points) for s, points in lines.items())])
    told = "; ".join(
        f"{s}: " + ", ".join(f"{percent(share)} at step {step:g}" for step, share in points)
        for s, points in lines.items()
    )
    label = f"Share of the target while fine-tuning on {what}. {told}"
    return Markup('<svg class="curve" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, drawn
    )


def _line(frame: _Frame, subject: str, points: Points) -> Markup:
    places = [frame.at(*p) for p in points]
    path = " ".join(f"{x},{y}" for x, y in places)
    marks = Markup("").join(_mark(subject, x, y) for x, y in places)
    return Markup('<g class="{}"><polyline points="{}"/>{}</g>').format(subject_class(subject), path, marks)


def _mark(subject: str, x: float, y: float) -> Markup:
    """The same marks as in the legend: a square, a diamond, otherwise a disc (which the style sheet may hollow)."""
    r, d = MARK, MARK * 1.25
    if subject == "base":
        return Markup(f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"/>')
    if subject == "retrained":
        return Markup(f'<path d="M{x} {y - d:.1f}L{x + d:.1f} {y}L{x} {y + d:.1f}L{x - d:.1f} {y}Z"/>')
    return Markup(f'<circle cx="{x}" cy="{y}" r="{r}"/>')


def _grid(frame: _Frame) -> Markup:
    text = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>')
    parts = []
    for share in (0.0, 0.5, 1.0):
        (x, y), (end, _) = frame.at(0, share), frame.at(frame.last, share)
        parts.append(Markup('<line x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, end, y, y))
        parts.append(text.format(x - 10, y + 5, "end", f"{100 * share:.0f} %"))
    for step in (0.0, frame.last / 2, frame.last):
        x, y = frame.at(step, 0)
        parts.append(text.format(x, y + 22, "end" if step == frame.last else "middle", f"{step:g}"))
    x, y = frame.at(frame.last / 2, 0)
    parts.append(text.format(x, y + 42, "middle", "steps of fine-tuning"))
    return Markup("").join(parts)


def _points(found: Measurement) -> Points:
    steps, shares = found.detail.get("steps") or [], found.detail.get("forget_rate") or []
    pairs = [(s, v) for s, v in zip(steps, shares, strict=False) if s is not None and v is not None]
    return [(float(s), float(v)) for s, v in pairs if isfinite(s) and isfinite(v)]
