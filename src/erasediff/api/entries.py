"""From run directories and audits to the rows of a comparison, whatever became of the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erasediff.api.directory import AUDIT, RunDirectory, read_run
from erasediff.api.run import MAY_DIFFER
from erasediff.auditing.result import ERASED, AuditResult
from erasediff.errors import BadInput, listing
from erasediff.families.precision import FULL
from erasediff.files import read_json
from erasediff.report.aggregate import COMPLETED, CONTROL, COSTS, DIVERGED, MODEL, NOT_RUN, RunRow

OTHERS = {"base": MODEL, "retrained": MODEL, "control": CONTROL}
ALIKE = ("suite", "features", "classifier", "clip", "guidance_scale", "mixed_precision", "seed", "data")

PLANS = "a plan (erasediff compare FILE.yaml) takes several, and runs made elsewhere under its key `runs`"


@dataclass(frozen=True)
class Entry:
    """A run that was named: where, its audit (a run that diverged has none) and its run.json, if it is still there."""

    path: Path
    audit: AuditResult | None
    record: dict[str, Any] | None
    directory: Path | None

    @property
    def method(self) -> str:
        return str(((self.record or {}).get("method") or {}).get("name", ERASED))

    @property
    def target(self) -> str:
        return self.audit.target if self.audit else listing((self.record or {}).get("target") or [])

    def row(self, label: str, **fields: Any) -> RunRow:
        """This run as a row."""
        status, detail = status_of(self.record)
        found = self.audit.measurements if self.audit else []
        made = RunRow(
            label=label,
            target=self.target,
            seed=(self.record or {}).get("seed"),
            status=status,
            detail=detail,
            path=str(self.path),
            measures={m.name: m for m in found if m.subject == ERASED},
            cost=cost_of(self.directory, self.record),
            setting=self.audit.setting if self.audit else {},
            record=self.record,
        )
        return replace(made, **fields)


def read(path: Path) -> Entry:
    """The run or audit in ``path``.

    Raises BadInput where there is neither an audit nor a run that diverged, and for an audit of other weights.
    """
    for candidate in (path, RunDirectory(path).audit):
        if (candidate / AUDIT).is_file():
            audit = AuditResult.from_dict(read_json(candidate / AUDIT))
            entry = Entry(candidate, audit, *_run_of(path, str(audit.setting.get("models", {}).get(ERASED, ""))))
            _check_same_weights(entry, audit)
            return entry
    record, directory = _run_of(path)
    if record is not None and record.get("status") == DIVERGED:
        return Entry(path, None, record, directory)
    raise BadInput(
        f"{path} holds no audit (no {AUDIT}); run `erasediff audit {path} --output_dir {path / 'audit'}` first"
    )


def _check_same_weights(entry: Entry, audit: AuditResult) -> None:
    """Raise BadInput where the run was made anew since its audit. Older audits do not say which weights they saw."""
    audited = (audit.setting.get("model_weights") or {}).get(ERASED) or {}
    there = (entry.record or {}).get("weights") or {}
    if audited.keys() == there.keys() and audited != there:
        raise BadInput(f"{entry.path} is an audit of other weights than those of {entry.directory} now; audit it anew")


def _run_of(*candidates: str | Path) -> tuple[dict[str, Any] | None, Path | None]:
    for candidate in candidates:
        try:
            directory, record = read_run(candidate)
        except BadInput:
            continue
        return record, directory.path
    return None, None


def status_of(record: Mapping[str, Any] | None) -> tuple[str, str]:
    """How a run ended, in a word and in a sentence: completed, "stopped: retain_budget", diverged, interrupted."""
    if record is None:
        return COMPLETED, ""
    status, stopped = str(record.get("status", "")), record.get("stopped") or {}
    reason, detail = str(stopped.get("reason", "")), str(stopped.get("detail", ""))
    if status == COMPLETED:
        return (f"stopped: {reason}" if reason == "retain_budget" else COMPLETED), detail
    return (status if status in (DIVERGED, "interrupted") else NOT_RUN), detail


def cost_of(directory: Path | None, record: Mapping[str, Any] | None) -> dict[str, float]:
    """What the whole run cost. Empty where only a part of it is known, because part of a cost looks like a bargain."""
    cost = {k: float(v) for k, v in ((record or {}).get("cost") or {}).items() if k in COSTS and v is not None}
    if directory is not None and (earlier := RunDirectory(directory).earlier_cost).is_file():
        cost = added(read_json(earlier), cost)
    steps = (record or {}).get("steps")
    return cost if steps is None or cost.get("steps", steps) >= steps else {}


def added(earlier: Mapping[str, float], cost: Mapping[str, float]) -> dict[str, float]:
    """Costs of two parts of one run: summed, except that memory is shared."""
    both = earlier.keys() | cost.keys()
    made = {k: float(earlier.get(k, 0)) + float(cost.get(k, 0)) for k in COSTS if k in both}
    if "peak_memory_bytes" in made:
        made["peak_memory_bytes"] = max(float(c.get("peak_memory_bytes", 0)) for c in (earlier, cost))
    return made


def labels(entries: Sequence[Entry]) -> list[str]:
    """A label for each run: the method's name, shared by runs that differ in nothing but their seed.

    Settings that share a name are numbered. So is every run where two of one setting have the same seed: they are no
    independent repetitions, and their mean would pretend that they were.
    """
    keys = [_settings(e) for e in entries]
    seeds = [(k, (e.record or {}).get("seed")) for k, e in zip(keys, entries, strict=True)]
    twice = {k for k, seed in seeds if seed is None or seeds.count((k, seed)) > 1}
    keys = [f"{k} {i}" if k in twice else k for i, k in enumerate(keys)]
    names = [e.method for e in entries]
    found = {name: list(dict.fromkeys(k for k, n in zip(keys, names, strict=True) if n == name)) for name in names}
    return [n if len(found[n]) == 1 else f"{n} #{found[n].index(k) + 1}" for k, n in zip(keys, names, strict=True)]


def _settings(entry: Entry) -> str:
    record = entry.record or {}
    given = {k: v for k, v in (record.get("training") or {}).items() if k not in {"seed", *MAY_DIFFER}}
    # A setting that is off is as good as one that an older version did not have.
    training = {k: v for k, v in given.items() if v is not None}
    steps = (record.get("training") or {}).get("max_train_steps")
    return json.dumps([record.get("method"), training, steps], sort_keys=True, default=str)


def others(entry: Entry) -> list[RunRow]:
    """The base, retrained and control models of an audit as rows of their own."""
    found = entry.audit.measurements if entry.audit else []
    measured = {s: {m.name: m for m in found if m.subject == s} for s in OTHERS}
    return [
        RunRow(label=s, kind=OTHERS[s], target=entry.target, seed=None, status=COMPLETED, measures=measures)
        for s, measures in measured.items()
        if measures
    ]


def check_comparable(entries: Sequence[Entry]) -> None:
    """Raise BadInput for runs of different targets or base models: their numbers are not comparable."""
    other = next((e for e in entries if e.target != entries[0].target), None)
    if other is not None:
        raise BadInput(
            f"runs of different targets cannot be compared: {entries[0].path} forgot {entries[0].target}, {other.path} "
            f"forgot {other.target}; {PLANS}"
        )
    hashes = [((e.record or {}).get("base_model") or {}).get("sha256") for e in entries]
    known = [(e, h) for e, h in zip(entries, hashes, strict=True) if h]
    odd = next((e for e, h in known if h != known[0][1]), None)
    if odd is not None:
        raise BadInput(
            f"runs of different base models cannot be compared: {odd.path} has another than {known[0][0].path}; {PLANS}"
        )


def differences(rows: Sequence[RunRow]) -> list[str]:
    """Sentences on what the audits do not share: numbers of other instruments are not comparable."""
    audits = [{"mixed_precision": FULL, **r.setting} for r in rows if r.setting and r.kind != MODEL]
    made = []
    for key in ALIKE:
        values = list(dict.fromkeys(json.dumps(a.get(key), sort_keys=True, default=str) for a in audits))
        if len(values) > 1:
            named = key.replace("_", " ") if key != "seed" else "sampling seed"
            made.append(f"The audits differ in their {named}: read the numbers with that in mind, or audit anew.")
    return made
