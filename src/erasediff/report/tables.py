"""The table of all measurements: a row a measure, a column a subject; as a model, as Markdown, as terminal lines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from erasediff.auditing.result import ERASED, AuditResult, Measurement
from erasediff.report.attacked import line as attacked
from erasediff.report.markdown import escaped
from erasediff.report.numbers import ABSENT, count, decimals, interval, number, percent
from erasediff.report.story import relearning_measures, verdict_line
from erasediff.report.vocabulary import AGAINST, SUBJECTS, group_title, measure, ordered_subjects, sorting_key


@dataclass(frozen=True)
class Cell:
    """One number as text; ``n`` is empty where the row states it for all its cells."""

    subject: str
    value: str = ABSENT
    interval: str = ""
    n: str = ""


@dataclass(frozen=True)
class Row:
    """One measure of all subjects. ``n``: the number of samples where all cells share it, else empty."""

    name: str
    title: str
    explanation: str
    higher_is_better: bool
    n: str
    cells: list[Cell]

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"

    @property
    def direction(self) -> str:
        return "higher is better" if self.higher_is_better else "lower is better"


@dataclass(frozen=True)
class Group:
    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Table:
    subjects: list[str]
    groups: list[Group]


def table(result: AuditResult) -> Table:
    """Every measurement of ``result`` in the order of reading; unknown measures stand behind the known ones.

    Differences from the retrained model are left out: they have a table of their own.
    """
    subjects = ordered_subjects(result.subjects())
    groups = {m.name: m.group for m in reversed(result.measurements) if m.group != AGAINST}
    names = sorted(groups, key=lambda name: sorting_key(name, groups[name]))
    shown = groupby(names, key=lambda name: group_title(measure(name, groups[name]).group))
    return Table(subjects, [Group(title, [_row(result, n, subjects) for n in members]) for title, members in shown])


def _row(result: AuditResult, name: str, subjects: list[str]) -> Row:
    found = [result.find(name, subject) for subject in subjects]
    there = [m for m in found if m is not None]
    known = measure(name, there[0].group)
    sizes = {m.n for m in there}
    places = 3 if known.share else decimals(m.value for m in there)
    return Row(
        name=name,
        title=known.title,
        explanation=known.explanation,
        higher_is_better=there[0].higher_is_better,
        n=count(there[0].n) if len(sizes) == 1 else "",
        cells=[_cell(subject, m, places, len(sizes) > 1) for subject, m in zip(subjects, found, strict=True)],
    )


def _cell(subject: str, found: Measurement | None, places: int, with_n: bool) -> Cell:
    if found is None:
        return Cell(subject)
    bounds = interval(found.low, found.high, places)
    return Cell(subject, number(found.value, places), bounds, count(found.n) if with_n else "")


def markdown(result: AuditResult) -> str:
    """The same table for a README or a model card. Names and values come escaped."""
    model = table(result)
    if not model.groups:
        return "Nothing was measured.\n"
    heads = ["Measure", *(escaped(SUBJECTS.get(s, (s,))[0]) for s in model.subjects), "n"]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for group in model.groups:
        lines.append(f"| **{escaped(group.title)}** |{' |' * (len(heads) - 1)}")
        for row in group.rows:
            cells = [" ".join(filter(None, (c.value, c.interval, c.n and f"(n = {c.n})"))) for c in row.cells]
            lines.append(f"| {escaped(row.title)} {row.arrow} | {' | '.join(cells)} | {row.n} |")
    return "\n".join(lines) + "\n\n↓ lower is better, ↑ higher is better; 95 % intervals in brackets.\n"


def summary_lines(result: AuditResult) -> list[str]:
    """What the terminal says after an audit: forgetting to verdict, a line each."""
    worst = result.find("retain_accuracy_worst")
    weakest = f"; worst class {worst.detail.get('class', '?')}: {percent(worst.value)}" if worst else ""
    relearned = [f"k = {k}: {_against(result, m.name, bounded=False)}" for k, m in relearning_measures(result)]
    told = {
        "forgetting": _told(result, "forget_rate", f"of samples asked for {result.target} are it"),
        "unconditional": _told(result, "forget_rate_unconditional", "of samples without a condition are it"),
        "retention": _told(result, "retain_accuracy", "of other samples are as asked") + weakest,
        "distance": _distance(result),
        "relearning": "target's mean share, " + "; ".join(relearned) if relearned else "not measured",
        "attacks": attacked(result),
        "verdict": verdict_line(result),
    }
    return [f"{head:<14} {' '.join(text.split())}" for head, text in told.items()]


def _told(result: AuditResult, name: str, meaning: str) -> str:
    found = result.find(name)
    if found is None:
        return "not measured"
    return f"{_against(result, name, meaning)}, n = {count(found.n)}"


def _against(result: AuditResult, name: str, meaning: str = "", *, bounded: bool = True) -> str:
    """``1.2 % of samples [0.4, 3.0] (base 97.6 %, retrained 0 %)``: the erased model's beside the others."""
    found = result.find(name)
    if found is None:
        return ABSENT
    low, high = (None if bound is None else 100 * bound for bound in (found.low, found.high))
    bounds = interval(low, high, places=1) if bounded else ""
    others = [(s, result.find(name, s)) for s in ordered_subjects(result.subjects()) if s != ERASED]
    beside = ", ".join(f"{s} {percent(m.value)}" for s, m in others if m is not None)
    return " ".join(filter(None, (percent(found.value), meaning, bounds, beside and f"({beside})")))


def _distance(result: AuditResult) -> str:
    parts = []
    if found := result.find("frechet_distance"):
        base = result.find("frechet_distance", "base")
        beside = f" (base {number(base.value)})" if base else ""
        parts.append(f"Frechet distance to real retained images {number(found.value)}{beside}")
    if found := result.find("parameter_change"):
        parts.append(f"weights changed by {percent(found.value)} of their norm")
    return "; ".join(parts) or "not measured"
