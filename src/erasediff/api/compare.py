"""``compare``: methods side by side, from runs that were audited or from a plan that is carried out first."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from erasediff.api.directory import refuse_occupied
from erasediff.api.entries import check_comparable, differences, labels, others, read
from erasediff.api.plan import is_plan, read_plan
from erasediff.api.planned import PLAN, carry_out
from erasediff.errors import BadInput, listing, unknown
from erasediff.files import read_json, writable, write_atomic, write_json
from erasediff.report import comparison, page
from erasediff.report.aggregate import CONTROL, METHOD, RunRow
from erasediff.report.compared import Comparison
from erasediff.report.race import Race, parse

COMPARE, RACE = "compare.json", "race.json"


def compare(
    runs: Sequence[str | Path] | str | Path | Mapping[str, Any],
    *,
    output_dir: str | Path | None = None,
    reference: str | None = None,
    max_runs: int | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Put methods side by side: measures with intervals, costs, paired tests, pictures.

    Args:
        runs: audited runs (audit directories, or run directories with an audit below them), or a plan: the path of a
            YAML file or its content as a mapping. A plan is carried out below ``output_dir``; the same call goes on
            where an earlier one stopped.
        reference: the label that the others are tested and timed against; by default the plan's, else erasediff.
        max_runs: with a plan, stop after so many new runs and compare what is there.
        overwrite: replace a comparison; with a plan, make runs anew that it no longer describes.
        say: is told, in lines, what is being done.

    Raises:
        BadInput: a run without an audit, runs of different targets or base models, a plan that cannot be carried out
            or that finished runs contradict. Interrupted: SIGINT during a run of a plan; its state is saved.
    """
    place = Path(output_dir) if output_dir is not None else None
    if max_runs is not None and (max_runs < 0 or not is_plan(runs)):
        raise BadInput(f"max_runs is for plans, and at least 0; got {max_runs}")
    if is_plan(runs):
        made = _planned(runs, place, reference, max_runs=max_runs, overwrite=overwrite, quiet=quiet, say=say)
    else:
        made = _given([runs] if isinstance(runs, (str, Path)) else list(runs), place, reference, overwrite=overwrite)
    if place is not None:
        table, html, record = comparison.markdown(made), comparison.render(made), made.to_dict()
        with writable(place):
            place.mkdir(parents=True, exist_ok=True)
            write_atomic(place / "table.md", table)
            page.write(place / "report.html", html)
            write_json(place / COMPARE, record)
    return made


def _given(runs: Sequence[str | Path], place: Path | None, reference: str | None, *, overwrite: bool) -> Comparison:
    if not runs:
        raise BadInput("no run given; name at least one audited run, or a plan (FILE.yaml)")
    entries = [read(Path(r)) for r in runs]
    check_comparable(entries)
    if place is not None:
        refuse_occupied(place, [COMPARE], overwrite=overwrite, what="a comparison")
    audited = next((e for e in entries if e.audit is not None), entries[0])
    rows = others(audited) + [e.row(label) for label, e in zip(labels(entries), entries, strict=True)]
    found = [r.label for r in rows if r.kind == METHOD]
    chosen = _reference(reference, found)
    control = next((r.label for r in rows if r.kind == CONTROL), None)
    race = _race(None, place)
    return Comparison(rows=rows, reference=chosen, control=control, race=race, notes=differences(rows))


def _planned(
    source: Any,
    place: Path | None,
    reference: str | None,
    *,
    max_runs: int | None,
    overwrite: bool,
    quiet: bool,
    say: Callable[[str], None],
) -> Comparison:
    if place is None:
        raise BadInput("a plan needs an output_dir: its runs are written there")
    plan = read_plan(source)
    if not (place / PLAN).exists():
        refuse_occupied(place, [COMPARE], overwrite=overwrite, what="a comparison that is not this plan's")
    found = list(dict.fromkeys(job.label for job in plan.jobs))
    chosen = plan.reference if reference is None else _reference(reference, found)
    race = _race(plan.race, place)
    rows = carry_out(
        plan, place, overwrite=overwrite, max_runs=max_runs, quiet=quiet, say=say, command=_command(source, place)
    )
    return Comparison(
        rows=rows,
        reference=chosen,
        control=plan.control,
        margins=plan.margins,
        race=race,
        notes=_notes(rows, plan.suite.name, list(plan.runs)),
    )


def _notes(rows: Sequence[RunRow], suite: str, guests: Sequence[str]) -> list[str]:
    elsewhere = [f"Made elsewhere and taken as they are: the runs of {listing(guests)}."] if guests else []
    return [
        f"Every model was audited with the suite “{suite}” and the same judge.",
        *elsewhere,
        *differences(rows),
    ]


def _reference(wanted: str | None, found: Sequence[str]) -> str | None:
    if wanted is not None and wanted not in found:
        raise unknown("reference (a label of the comparison)", wanted, found)
    return wanted or next((label for label in ("erasediff", *found) if label in found), None)


def _race(named: Path | None, place: Path | None) -> Race | None:
    """The race that a plan names, or the one beside the comparison. Raises BadInput where it cannot be read."""
    if named is not None:
        return parse(read_json(named), str(named))
    beside = None if place is None else place / RACE
    return parse(read_json(beside), str(beside)) if beside is not None and beside.is_file() else None


def _command(source: Any, place: Path) -> str:
    """The command line that repeats a comparison; of a mapping, which no command line can name, the Python call."""
    if isinstance(source, Mapping):
        return f"erasediff.compare(plan, output_dir={str(place)!r})"
    named = source if isinstance(source, (str, Path)) else source[0]
    return shlex.join(["erasediff", "compare", str(named), "--output_dir", str(place)])
