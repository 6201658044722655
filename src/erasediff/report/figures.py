"""Figures as HTML and SVG that take their colours, and so light and dark, from the page's style sheet.

Drawn by hand and not with matplotlib: bars and dots that are HTML keep their text readable at any width, follow the
reader's colour scheme and cost neither an import nor half a megabyte. Every figure carries its content as an alt text.
Positions are percentages of an axis from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from markupsafe import Markup

from erasediff.auditing.result import ERASED, AuditResult, Measurement
from erasediff.report.numbers import number, percent
from erasediff.report.vocabulary import MEASURES, ordered_subjects, subject_class

MOST_LAYERS = 24
_MARK = Markup('<i class="mark {}" style="left:{}"></i>')


def legend(subjects: Sequence[str]) -> Markup:
    """The colours and marks of subjects, as a list."""
    items = Markup("").join(
        Markup('<li><i class="mark {}"></i>{}</li>').format(subject_class(s), s) for s in ordered_subjects(subjects)
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def overview(result: AuditResult) -> Markup:
    """Dots with intervals on a common axis from 0 to 1: every share that was measured, a lane for each subject."""
    names = [n for n, known in MEASURES.items() if known.share and any(m.name == n for m in result.measurements)]
    if not names:
        return Markup("")
    subjects = ordered_subjects(result.subjects())
    rows, told, group = [], [], ""
    for name in names:
        found = [(s, m) for s in subjects if (m := result.find(name, s)) is not None and isfinite(m.value)]
        known = MEASURES[name]
        better = "higher is better" if any(m.higher_is_better for _, m in found) else "lower is better"
        first = Markup(" first") if group and known.group != group else Markup("")
        group = known.group
        lanes = Markup("").join(_lane(s, m) for s, m in found)
        rows.append(
            Markup(
                '<div class="row{}"><div class="label">{} <small>{}</small></div><div class="track">{}</div></div>'
            ).format(first, known.title, better, lanes)
        )
        told.append(f"{known.title}: " + ", ".join(f"{s} {number(m.value, 3)}" for s, m in found))
    return _chart("overview", "; ".join(told), subjects, [*rows, _axis()])


def _lane(subject: str, found: Measurement) -> Markup:
    kind, whisker = subject_class(subject), Markup("")
    if found.low is not None and found.high is not None and isfinite(found.low) and isfinite(found.high):
        low, high = _clamped(found.low), _clamped(found.high)
        whisker = Markup('<i class="whisker {}" style="left:{};width:{}"></i>').format(
            kind, _position(low), _position(high - low)
        )
    return Markup('<span class="lane">{}{}</span>').format(whisker, _MARK.format(kind, _position(found.value)))


def per_class(result: AuditResult) -> Markup:
    """Accuracy of each retained class: a bar for the erased model, a mark for the base model (or the next there is)."""
    found = {s: result.find("retain_accuracy", s) for s in ordered_subjects(result.subjects())}
    shares = {s: _finite(m.detail.get("per_class")) for s, m in found.items() if m is not None}
    beside = [s for s, classes in shares.items() if classes and s != ERASED][:1]  # more would hide one another
    shares = {s: classes for s, classes in shares.items() if classes and s in (ERASED, *beside)}
    names = list(dict.fromkeys(name for classes in shares.values() for name in classes))
    if ERASED not in shares or not names:
        return Markup("")
    rows = []
    for name in names:
        marks = {s: classes[name] for s, classes in shares.items() if s != ERASED and name in classes}
        rows.append(_bar_row(name, shares[ERASED].get(name), marks, percent(shares[ERASED].get(name))))
    told = "; ".join(f"{n}: " + ", ".join(f"{s} {percent(c.get(n))}" for s, c in shares.items()) for n in names)
    return _chart("classes", told, list(shares), [*rows, _axis()])


def layers(result: AuditResult) -> Markup:
    """Relative change of the weights by layer, erased model as bars, the control (if measured) as marks."""
    found = {s: result.find("parameter_change", s) for s in ordered_subjects(result.subjects())}
    changes = {s: _finite(m.detail.get("layers")) for s, m in found.items() if m is not None}
    changes = {s: by_layer for s, by_layer in changes.items() if by_layer}
    if ERASED not in changes:
        return Markup("")
    mine = changes[ERASED]
    kept = sorted(mine, key=lambda name: -mine[name])[:MOST_LAYERS]
    largest = max([v for by_layer in changes.values() for k, v in by_layer.items() if k in kept] + [1e-12])
    rows = []
    for name in (n for n in mine if n in kept):
        marks = {s: by_layer[name] / largest for s, by_layer in changes.items() if s != ERASED and name in by_layer}
        rows.append(_bar_row(name, mine[name] / largest, marks, percent(mine[name])))
    told = "; ".join(f"{n} {percent(mine[n])}" for n in mine if n in kept)
    note = Markup("")
    if len(kept) < len(mine):
        note = Markup('<p class="muted small">The {} that changed most, of {}.</p>').format(len(kept), len(mine))
    return _chart("layers", told, list(changes), rows) + note


def _chart(kind: str, told: str, subjects: Sequence[str], rows: Sequence[Markup]) -> Markup:
    frame = Markup('{}<div class="chart {}" role="img" aria-label="{}">{}</div>')
    return frame.format(legend(subjects), kind, told, Markup("").join(rows))


def _bar_row(name: str, share: float | None, marks: Mapping[str, float], value: str) -> Markup:
    """A bar for the erased model and marks for the others, with the erased model's value at the end of the row."""
    bar = Markup("")
    if share is not None and isfinite(share):
        bar = Markup('<i class="bar {}" style="width:{}"></i>').format(subject_class(ERASED), _position(share))
    placed = [_MARK.format(subject_class(s), _position(v)) for s, v in marks.items()]
    frame = '<div class="row"><div class="label">{}</div><div class="track">{}</div><div class="value">{}</div></div>'
    return Markup(frame).format(name, Markup("").join([bar, *placed]), value)


def _axis() -> Markup:
    tick = Markup('<span style="left:{}%">{:g}</span>')
    ticks = Markup("").join(tick.format(place, place / 100) for place in (0, 50, 100))
    return Markup('<div class="row axis"><div class="label"></div><div class="track">{}</div></div>').format(ticks)


def _finite(values: Mapping[str, float] | None) -> dict[str, float]:
    return {str(k): float(v) for k, v in (values or {}).items() if v is not None and isfinite(v)}


def _clamped(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def _position(share: float) -> str:
    """A place on the axis; what lies outside stands at its end."""
    return f"{100 * _clamped(share):.2f}%"
