"""The erased model against one that never saw the target: a row a comparison, as a table and as a forest plot.

Differences are drawn in units of their own margin, so that an AUC and a share stand on one axis and the margins are
one band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite, nan
from typing import Any

from markupsafe import Markup

from erasediff.auditing.comparison import EQUAL, LOWER, UNCLEAR, WORSE
from erasediff.auditing.result import AuditResult
from erasediff.report.numbers import interval, number
from erasediff.report.vocabulary import attack_title

ROLES = {
    "asking": "Asked",
    "access": "Asked with more force",
    "trace": "Traces of the target",
    "retention": "What was to stay",
}
"""Role of a comparison -> the heading above its rows, in the order of the report; roles not named here follow."""

SIGNS = {WORSE: ("▲", "beyond"), LOWER: ("▼", "beyond"), EQUAL: ("=", "within"), UNCLEAR: ("?", "unclear")}
"""Outcome -> its sign and its CSS class."""

REACH = 2.0  # margins on each side of the axis
PLACES = 3
_MARKS = {
    "▲": "M-5 -6L6 0L-5 6Z",
    "▼": "M5 -6L-6 0L5 6Z",
    "=": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z",
    "?": "M0 -6L6 0L0 6L-6 0Z",
}


@dataclass(frozen=True)
class Row:
    """One comparison as text; ``place``, ``low`` and ``high``: the difference and its interval in margins."""

    name: str
    attack: str
    title: str
    role: str
    erased: str
    retrained: str
    difference: str
    interval: str
    margin: str
    outcome: str
    note: str
    sign: str
    kind: str
    place: float
    low: float
    high: float


def comparisons(result: AuditResult) -> list[Mapping[str, Any]]:
    """What ``setting`` holds of comparisons with the retrained model; empty where there are none."""
    return [c for c in result.setting.get("comparisons") or [] if isinstance(c, Mapping)]


def rows(result: AuditResult) -> list[Row]:
    """The comparisons, role by role in the order of :data:`ROLES`."""
    order = list(ROLES)
    made = [_row(c) for c in comparisons(result)]
    return sorted(made, key=lambda row: order.index(row.role) if row.role in order else len(order))


def groups(found: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """(heading, rows) for each role."""
    return [(ROLES.get(role, role), list(members)) for role, members in groupby(found, key=lambda row: row.role)]


def _row(c: Mapping[str, Any]) -> Row:
    difference, low, high, margin = (value(c.get(key)) for key in ("difference", "low", "high", "margin"))
    outcome = str(c.get("outcome", UNCLEAR))
    sign, kind = SIGNS.get(outcome, ("?", "unclear"))
    unit = margin if margin > 0 else nan
    attack = str(c.get("attack", c.get("name", "?")))
    return Row(
        name=str(c.get("name", "")),
        attack=attack,
        title=attack_title(attack),
        role=str(c.get("role", "")),
        erased=number(value(c.get("erased")), PLACES),
        retrained=number(value(c.get("retrained")), PLACES),
        difference=_signed(difference),
        interval=interval(low, high, PLACES),
        margin=f"±{margin:g}",
        outcome=outcome,
        note="not required for equality" if outcome == UNCLEAR and c.get("needed") is False else "",
        sign=sign,
        kind=kind,
        place=difference / unit,
        low=low / unit,
        high=high / unit,
    )


def value(given: object) -> float:
    """A number of a record; NaN where there is none."""
    return float(given) if isinstance(given, (int, float)) else nan


def _signed(difference: float) -> str:
    text = number(difference, PLACES)
    return f"+{text}" if difference > 0 else text


def tally(found: Sequence[Row]) -> str:
    """``6 of 10 within the margin, 4 unclear``."""
    counts = {outcome: sum(row.outcome == outcome for row in found) for outcome in (WORSE, LOWER, EQUAL, UNCLEAR)}
    told = [f"{n} {outcome}" for outcome, n in counts.items() if n]
    return f"Of {len(found)} comparisons: {', '.join(told)}." if told else ""


def forest(found: Sequence[Row]) -> Markup:
    """The differences with their intervals, a line each; empty where no difference is finite."""
    if not any(isfinite(row.place) for row in found):
        return Markup("")
    drawn = []
    for heading, members in groups(found):
        drawn.append(_line(Markup("<b>{}</b>").format(heading), Markup(""), " head"))
        drawn += [_line(Markup("{}").format(row.title), _track(row)) for row in members]
    told = "; ".join(_told(row) for row in found)
    label = f"Differences between the erased and the retrained model in units of their margins. {told}"
    frame = Markup('<div class="chart forest" role="img" aria-label="{}">{}{}</div>')
    return frame.format(label, Markup("").join(drawn), _axis())


def legend() -> Markup:
    """The marks of the outcomes with their signs in the table, as a list."""
    item = Markup(
        '<li class="o-{}"><svg class="key" viewBox="-8 -8 16 16" aria-hidden="true"><path d="{}"/></svg>'
        '<span class="sign" aria-hidden="true">{}</span>{}</li>'
    )
    items = Markup("").join(item.format(kind, _MARKS[sign], sign, said) for said, (sign, kind) in SIGNS.items())
    return Markup('<ul class="legend forest">{}</ul>').format(items)


def _told(row: Row) -> str:
    margins = f", {row.place:+.2g} margins" if isfinite(row.place) else ""
    return f"{row.title}: {row.difference} {row.interval}{margins}, {row.outcome}"


def _line(label: Markup, inside: Markup, kind: str = "") -> Markup:
    frame = Markup(
        '<div class="row{}"><div class="label">{}</div><svg class="track" width="100%" height="24">'
        '<rect class="band" x="25%" width="50%" height="24"/><line class="zero" x1="50%" x2="50%" y2="24"/>{}'
        "</svg></div>"
    )
    return frame.format(kind, label, inside)


def _track(row: Row) -> Markup:
    parts = Markup("")
    if isfinite(row.low) and isfinite(row.high):
        parts = Markup('<line class="whisker" x1="{}" x2="{}" y1="12" y2="12"/>').format(_at(row.low), _at(row.high))
    if isfinite(row.place):
        # A nested picture is placed by percent, which a path cannot be: so the drawing stretches and its marks do not.
        mark = Markup('<svg x="{}" y="12" overflow="visible"><path d="{}"/></svg>')
        parts += mark.format(_at(row.place), _MARKS[row.sign])
    return Markup('<g class="{}">{}</g>').format(f"o-{row.kind}", parts)


def _axis() -> Markup:
    text = Markup('<text x="{}" y="15" text-anchor="{}">{}</text>')
    anchors = {-2: "start", 2: "end"}
    ticks = Markup("").join(
        text.format(_at(tick), anchors.get(tick, "middle"), f"{tick:+d}".replace("-", "−") if tick else "0")
        for tick in (-2, -1, 0, 1, 2)
    )
    frame = '<div class="row axis"><div class="label"></div><svg class="track" width="100%" height="20">{}</svg></div>'
    return Markup(frame).format(ticks)


def _at(place: float) -> str:
    """Where a difference in margins stands; what lies outside stands at the end."""
    return f"{100 * (min(max(place, -REACH), REACH) + REACH) / (2 * REACH):.2f}%"
