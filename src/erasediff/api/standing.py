"""What stands in a plan's comparison and was not made by it: base and retrained models, and runs made elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erasediff.api.attempt import NOT_FINITE, audited, broken
from erasediff.api.directory import AUDIT, read_run
from erasediff.api.entries import Entry, status_of
from erasediff.api.plan import Plan
from erasediff.api.plan_jobs import place_of, safe_name
from erasediff.api.workshop import Workshop, examined, weights_of
from erasediff.auditing.attacks.base import BASE
from erasediff.auditing.classifier import Judge
from erasediff.auditing.result import ERASED, AuditResult
from erasediff.data.images import ImageData
from erasediff.data.targets import Target
from erasediff.errors import BadInput, listing
from erasediff.files import read_json
from erasediff.report.aggregate import COMPLETED, CONTROL, DIVERGED, METHOD, MODEL, RunRow

MODELS = "models"


@dataclass(frozen=True)
class Guest:
    """A run that a plan takes as it is. ``path``: its run directory, which nothing is written to."""

    label: str
    name: str
    target: tuple[Target, ...]
    seed: int
    path: Path
    record: Mapping[str, Any]

    @property
    def place(self) -> Path:
        return place_of(self.name, self.label, self.seed)


def guests(plan: Plan, data: ImageData) -> list[Guest]:
    """The runs under the plan's key ``runs``.

    Raises BadInput for one that is not there or not at its end, or that had another target, seed, base model or data.
    """
    bases = {str(m): weights_of(m, plan.model_config) for m in plan.models.values()} if plan.runs else {}
    found: list[Guest] = []
    for label, name, seed, path in _named(plan):
        directory, record = read_run(path)
        guest = Guest(label, name, plan.targets()[name], seed, directory.path, record)
        _check(guest, bases[str(plan.models[seed])], data)
        if any(g.path.resolve() == guest.path.resolve() for g in found):
            raise BadInput(f"runs: {path} is named twice, but one run is no two repetitions")
        found.append(guest)
    return found


def _check(guest: Guest, base: Mapping[str, str], data: ImageData) -> None:
    record, named = guest.record, f"runs: {guest.path} of {guest.label}"
    status = status_of(record)[0]
    if status not in (COMPLETED, DIVERGED) and not status.startswith("stopped"):
        raise BadInput(f"{named} is not at its end (status {record.get('status')!r}); finish it first")
    target = sorted(map(str, record.get("target") or []))
    if target != sorted(map(str, guest.target)):
        raise BadInput(f"{named} erased {listing(target)}, where the plan has {guest.name}")
    if record.get("seed") != guest.seed:
        raise BadInput(f"{named} has the seed {record.get('seed')}, where the plan has {guest.seed}")
    if (record.get("base_model") or {}).get("sha256") != base:
        raise BadInput(f"{named} began from another base model than the plan has for seed {guest.seed}")
    if (record.get("data") or {}).get("sha256") != data.fingerprint():
        raise BadInput(f"{named} was made from other data than the plan's")


def _named(plan: Plan) -> Iterator[tuple[str, str, int, Path]]:
    for label, by_target in plan.runs.items():
        for name, by_seed in by_target.items():
            for seed, path in by_seed.items():
                yield label, name, seed, Path(str(path))


def references(shop: Workshop, judge: Judge | None, asked: Mapping[str, Any]) -> list[RunRow]:
    """The base model and, where given, the retrained one, audited once for each target and seed they serve."""
    plan, rows = shop.plan, []
    single = len({str(m) for m in plan.models.values()}) == 1
    seeds: dict[int | None, Any] = {None if single else s: model for s, model in plan.models.items()}
    for name, target in plan.targets().items():
        for label, models in (("base", seeds), ("retrained", plan.retrained.get(name, {}))):
            for seed, model in models.items():
                place = shop.place / MODELS / safe_name(name) / label / ("all" if seed is None else str(seed))
                wanted = {**asked, "weights": shop.hashes(model)}
                if not audited(place, wanted):
                    shop.say(f"auditing the {label} model, {name}" + ("" if seed is None else f", seed {seed}"))
                    examined(shop, model, target, judge, wanted, place, None, forgetful=label != BASE)
                rows.append(_model_row(place, label, name, seed))
    return rows


def received(shop: Workshop, found: list[Guest], judge: Judge | None, asked: Mapping[str, Any]) -> list[RunRow]:
    """A row for every guest, audited once; its audit lies where a run of the plan would lie."""
    rows = []
    for guest in found:
        kind = CONTROL if guest.label == shop.plan.control else METHOD
        fields: dict[str, Any] = {"target": guest.name, "seed": guest.seed, "kind": kind}
        record, audit = dict(guest.record), None
        if broken(guest.path):
            fields |= {"status": DIVERGED, "detail": NOT_FINITE}
        elif status_of(record)[0] != DIVERGED:
            place = shop.place / guest.place / "audit"
            wanted = {**asked, "weights": shop.hashes(guest.path)}
            if not audited(place, wanted):
                shop.say(f"auditing {guest.label}, {guest.name}, seed {guest.seed}: {guest.path}")
                examined(shop, guest.path, guest.target, judge, wanted, place, record)
            audit = AuditResult.from_dict(read_json(place / AUDIT))
        rows.append(Entry(guest.path, audit, record, guest.path).row(guest.label, **fields))
    return rows


def _model_row(place: Path, label: str, name: str, seed: int | None) -> RunRow:
    found = AuditResult.from_dict(read_json(place / AUDIT))
    measures = {m.name: replace(m, subject=label) for m in found.measurements if m.subject == ERASED}
    return RunRow(
        label=label,
        kind=MODEL,
        target=name,
        seed=seed,
        status=COMPLETED,
        path=str(place),
        measures=measures,
        setting=found.setting,
    )
