"""A comparison for readers: one self-contained page, Markdown, lines for the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from erasediff.families.precision import FULL
from erasediff.report import pareto, race_curves
from erasediff.report.aggregate import CONTROL, MODEL, Aggregate
from erasediff.report.compared import Comparison
from erasediff.report.grids import cost_grid, group_grids, main_grid
from erasediff.report.markdown import escaped
from erasediff.report.numbers import ABSENT, interval, number
from erasediff.report.page import environment
from erasediff.report.plot import legend, mark, styles
from erasediff.report.rivals import chance, sentences, shown
from erasediff.report.vocabulary import measure, target_phrase

SHOWN = ("forget_rate", "retain_accuracy", "frechet_distance")


@dataclass(frozen=True)
class Contest:
    """A paired test as text."""

    measure: str
    rival: str
    difference: str
    interval: str
    p: str
    p_holm: str
    signed_rank: str
    pairs: str
    equivalence: str
    shown: bool


@dataclass(frozen=True)
class RunLine:
    """One run as text."""

    label: str
    target: str
    seed: str
    status: str
    detail: str
    numbers: list[str]


def render(found: Comparison) -> str:
    """The page as text; the same comparison gives the same bytes."""
    kinds = _kinds(found)
    page = environment().get_template("comparison.html.jinja")
    said = sentences(found.tests, found.aggregates)
    return str(
        page.render(
            found=found,
            heading=_heading(found),
            lead=_lead(found),
            marks={label: mark(kind) for label, kind in kinds.items()},
            main=main_grid(found),
            groups=group_grids(found),
            cost=cost_grid(found),
            said=said,
            pictures=[_picture(found, p, kinds) for p in found.pictures],
            legend=legend({s: kinds[s] for s in kinds if any(s in p.points for p in found.pictures)}),
            race=_race(found, kinds),
            tests=[_test_line(t) for t in found.tests],
            margins=bool(found.margins),
            runs=[_run_line(r) for r in found.rows],
            run_columns=[measure(n, "").title for n in SHOWN],
            instruments=_instruments(found),
        )
    )


def _kinds(found: Comparison) -> dict[str, str]:
    """Label -> its mark; the reference has the first colour whatever its place."""
    labels = [a.label for a in found.aggregates] + ([] if found.race is None else found.race.labels)
    first = [found.reference] if found.reference is not None else []
    made = styles(list(dict.fromkeys([*first, *labels])), [a.label for a in found.aggregates if a.kind == CONTROL])
    return {label: made[label] for label in dict.fromkeys(labels)}


def _heading(found: Comparison) -> tuple[str, str]:
    methods = sum(a.kind != MODEL for a in found.aggregates)
    targets = [target_phrase(t) for t in found.targets]
    named = targets[0] if len(targets) == 1 else "; ".join(targets)
    return f"{methods} method{'s' * (methods != 1)}, {len(targets)} target{'s' * (len(targets) != 1)}", named


def _lead(found: Comparison) -> str:
    runs = [a for a in found.aggregates if a.kind != MODEL]
    most = max((a.measured for a in runs), default=0)
    if most < 2:
        return (
            "One run a method: the intervals cover the drawing of samples, not the training. Another seed gives "
            "another model, so differences here show little."
        )
    return (
        "Each number is a mean over seeds and targets. The 95 % interval in brackets is Student’s, over the runs; "
        "where all runs gave the same value it is the widest of their own."
    )


def _picture(found: Comparison, picture: pareto.Picture, kinds: dict[str, str]) -> dict[str, Any]:
    absent = [a.label for a in found.aggregates if a.kind != MODEL and a.label not in picture.points]
    better = "above is better" if picture.higher_is_better else "below is better"
    return {
        "title": picture.title[0].upper() + picture.title[1:],
        "better": f"Further left forgets more; {better}.",
        "svg": pareto.draw(picture, kinds),
        "front": picture.front,
        "absent": [(label, _why(found.find(label))) for label in absent],
    }


def _why(found: Aggregate | None) -> str:
    if found is None:
        return ""
    return ", ".join(found.statuses) if not found.measured else "not measured"


def _race(found: Comparison, kinds: dict[str, str]) -> dict[str, Any] | None:
    if found.race is None:
        return None
    reference = found.reference if found.reference in found.race.labels else None
    drawn = {s: kinds[s] for s in found.race.labels}
    return {
        "reference": reference,
        "curves": race_curves.curves(found.race, reference, kinds),
        "legend": legend(drawn),
        "lines": race_curves.lines(found.race, reference),
        "line": found.race.target_line,
    }


def _test_line(test: Any) -> Contest:
    equal = ABSENT if test.margin is None else f"± {number(test.margin)}: {chance(test.equivalence_holm, 'p ')}"
    return Contest(
        measure(test.measure, "").title,
        test.rival,
        number(test.difference),
        interval(test.low, test.high),
        chance(test.p) if test.p is not None else test.note or ABSENT,
        chance(test.p_holm),
        chance(test.p_signed_rank),
        str(test.pairs),
        equal,
        shown(test),
    )


def _run_line(row: Any) -> RunLine:
    numbers = [number(row.measures[n].value, 3) if n in row.measures else ABSENT for n in SHOWN]
    return RunLine(
        row.label, row.target, ABSENT if row.seed is None else str(row.seed), row.status, row.detail, numbers
    )


def _instruments(found: Comparison) -> list[tuple[str, str]]:
    """How each method's runs were audited; one line for all where they agree."""
    said = {r.label: _instrument(r.setting) for r in found.rows if r.setting and r.kind != MODEL}
    if len(set(said.values())) == 1:
        return [("All methods", next(iter(said.values())))]
    return list(said.items())


def _instrument(setting: Any) -> str:
    judge = (setting.get("classifier") or {}).get("name", "no classifier")
    suite = (setting.get("suite") or {}).get("name", "?")
    drawn = f"guidance scale {setting.get('guidance_scale')}; sampling seed {setting.get('seed')}"
    half = setting.get("mixed_precision", FULL)
    drawn += "" if half == FULL else f"; drawn in {half}"
    return f"{judge}; features {setting.get('features')}; suite {suite}; {drawn}"


def markdown(found: Comparison) -> str:
    """The table of every measure's mean, and the tests in words. Text from users comes escaped."""
    parts = []
    for grid in filter(None, (main_grid(found), cost_grid(found))):
        heads = ["Method", "Runs", *(f"{c.title} {c.arrow}".strip() for c in grid.columns)]
        parts.append(f"| {' | '.join(escaped(h) for h in heads)} |\n|---|---|{'---:|' * len(grid.columns)}")
        for line in grid.lines:
            cells = [" ".join(filter(None, (f"**{c.value}**" if c.best else c.value, c.interval))) for c in line.cells]
            runs = ", ".join(filter(None, (line.runs, line.trouble)))
            role = f" ({line.role})" if line.role else ""
            parts[-1] += f"\n| {escaped(line.label)}{role} | {escaped(runs)} | {' | '.join(cells)} |"
    said = "\n".join(f"- {escaped(line)}" for line in _words(found))
    parts.append("↓ lower is better, ↑ higher is better; 95 % intervals in brackets; the best method in bold.")
    return "\n\n".join([*parts, said] if said else parts) + "\n"


def terminal_lines(found: Comparison) -> list[str]:
    """What the terminal says: the first table in columns, then the tests in words and what is missing."""
    grid = main_grid(found)
    rows = [["method", "runs", *(f"{c.title} {c.arrow}".strip() for c in grid.columns)]]
    for line in grid.lines:
        cells = [c.value + (" *" if c.best else "") for c in line.cells]
        rows.append([line.label, ", ".join(filter(None, (line.runs, line.trouble))), *cells])
    rows = [[" ".join(text.split()) for text in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = ["  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    missing = len(found.missing)
    left = [f"{missing} of {len(found.rows)} runs not run yet; the same command goes on"] if missing else []
    return [*table, "* the best method of a column", *_words(found), *left]


def _words(found: Comparison) -> list[str]:
    said = sentences(found.tests, found.aggregates)
    told = {
        f"better than {found.reference}, shown by a paired test": said.losses,
        f"better than {found.reference} on average, not shown by a test": said.unproven,
        f"worse than {found.reference}, shown by a paired test": said.wins,
    }
    lines = [f"{head}: {line}" for head, mine in told.items() for line in mine]
    return [*(line[0].upper() + line[1:] for line in lines), *said.notes, *found.notes]
