"""``compare``: several audited runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erasediff.api.directory import read_run, refuse_occupied
from erasediff.auditing.result import ERASED, AuditResult, Measurement, Verdict
from erasediff.errors import BadInput, listing
from erasediff.files import read_json, writable, write_atomic, write_json
from erasediff.report import comparison, page
from erasediff.report.tables import markdown

SCHEMA = 1
AUDIT = "audit.json"
COSTS = {"seconds": "cost_seconds", "steps": "cost_steps", "forward_equivalents": "cost_forward_equivalents"}


@dataclass(frozen=True)
class Entry:
    """One audited run: where it lies, its audit and (if it is still there) its run.json."""

    path: Path
    audit: AuditResult
    run: dict[str, Any] | None

    @property
    def method(self) -> str:
        return str(((self.run or {}).get("method") or {}).get("name", "erased"))


@dataclass(frozen=True)
class Comparison:
    """The models as subjects of one result, and what each column came from."""

    result: AuditResult
    entries: Sequence[Entry]
    labels: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """The content of compare.json."""
        runs = [
            {"label": label, "audit": str(e.path), "run": e.run, "setting": e.audit.setting}
            for label, e in zip(self.labels, self.entries, strict=True)
        ]
        return {"schema": SCHEMA, "runs": runs, **{k: v for k, v in self.result.to_dict().items() if k != "schema"}}


def compare(runs: Sequence[str | Path], *, output_dir: str | Path | None = None, overwrite: bool = False) -> Comparison:
    """Put audited runs side by side: their measures with intervals, and what they cost.

    Args:
        runs: audit directories, or run directories with an audit below them. The base, control and retrained models
            of the first audit come along as columns of their own.

    Raises:
        BadInput: a run without an audit, or runs of different targets or base models: their numbers are not comparable.
    """
    entries = [_entry(Path(r)) for r in runs]
    if not entries:
        raise BadInput("no run given; name at least one audited run")
    _check_comparable(entries)
    place = Path(output_dir) if output_dir is not None else None
    if place is not None:
        refuse_occupied(place, ["compare.json"], overwrite=overwrite, what="a comparison")
    labels = _labels(entries)
    first = entries[0].audit
    found: list[Measurement] = [m for m in first.measurements if m.subject != ERASED]
    for label, entry in zip(labels, entries, strict=True):
        found += [replace(m, subject=label) for m in entry.audit.measurements if m.subject == ERASED]
        found += _costs(label, entry.run)
    verdict = Verdict(goal=first.verdict.goal, level="no_verdict", because=["a comparison reaches no verdict"])
    made = Comparison(AuditResult(target=first.target, measurements=found, verdict=verdict), entries, labels)
    if place is not None:
        with writable(place):
            place.mkdir(parents=True, exist_ok=True)
            write_json(place / "compare.json", made.to_dict())
            write_atomic(place / "table.md", markdown(made.result))
            page.write(place / "report.html", comparison.render(made.result, _facts(made)))
    return made


def _entry(path: Path) -> Entry:
    for candidate in (path, path / "audit"):
        if (candidate / AUDIT).is_file():
            audit = AuditResult.from_dict(read_json(candidate / AUDIT))
            return Entry(candidate, audit, _run_of(audit, path))
    raise BadInput(
        f"{path} holds no audit (no {AUDIT}); run `erasediff audit {path} --output_dir {path / 'audit'}` first"
    )


def _run_of(audit: AuditResult, path: Path) -> dict[str, Any] | None:
    for candidate in (path, audit.setting.get("models", {}).get(ERASED, "")):
        try:
            return read_run(candidate)[1]
        except BadInput:
            continue
    return None


def _check_comparable(entries: Sequence[Entry]) -> None:
    found = {e.audit.target for e in entries}
    if len(found) > 1:
        raise BadInput(f"runs of different targets cannot be compared: {listing(sorted(found))}")
    hashes = [((e.run or {}).get("base_model") or {}).get("sha256") for e in entries]
    known = [h for h in hashes if h]
    odd = next((e for e, h in zip(entries, hashes, strict=True) if h and h != known[0]), None)
    if odd is not None:
        raise BadInput(
            f"runs of different base models cannot be compared: {odd.path} has another than {entries[0].path}"
        )


def _labels(entries: Sequence[Entry]) -> list[str]:
    """The method's name, numbered where several runs share it."""
    names = [e.method for e in entries]
    return [n if names.count(n) == 1 else f"{n} #{names[: i + 1].count(n)}" for i, n in enumerate(names)]


def _costs(label: str, run: dict[str, Any] | None) -> list[Measurement]:
    cost = (run or {}).get("cost") or {}
    return [
        Measurement(name=name, group="cost", subject=label, value=float(cost[key]), n=1, higher_is_better=False)
        for key, name in COSTS.items()
        if key in cost
    ]


def _facts(made: Comparison) -> list[tuple[str, str]]:
    rows = []
    for label, entry in zip(made.labels, made.entries, strict=True):
        setting = entry.audit.setting
        judge = (setting.get("classifier") or {}).get("name", "no classifier")
        suite = (setting.get("suite") or {}).get("name", "?")
        said = f"{judge}; features {setting.get('features')}; suite {suite}; sampling seed {setting.get('seed')}"
        rows.append((label, f"{said}; audit in {entry.path}"))
    return rows
