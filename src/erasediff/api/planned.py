"""Carrying out a plan: every run and its audit once, and going on where an earlier call stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from erasediff import families
from erasediff.api.attempt import NOT_FINITE, attempt, audit_is, broken, finished
from erasediff.api.directory import RunDirectory, read_run
from erasediff.api.entries import cost_of, read, status_of
from erasediff.api.erase import erase
from erasediff.api.inputs import check_config, check_fit, load_data, load_model
from erasediff.api.judges import clip_for, judge_for
from erasediff.api.plan import Plan
from erasediff.api.plan_jobs import Job
from erasediff.api.run import MAY_DIFFER
from erasediff.api.standing import Guest, guests, received, references
from erasediff.api.workshop import Workshop, examined, weights_of
from erasediff.auditing.classifier import RECORD_FILE, Judge
from erasediff.auditing.features import EXTRACTORS
from erasediff.data import targets
from erasediff.data.images import ImageData
from erasediff.errors import BadInput, check_one_of
from erasediff.files import alone_in, read_json, write_atomic, write_json
from erasediff.report.aggregate import COMPLETED, CONTROL, DIVERGED, METHOD, NOT_RUN, RunRow
from erasediff.report.card import model_card

PLAN, CLASSIFIER = "plan.json", "classifier"
COMPARED = ("target", "method", "data", "base_model", "training")
MARGINAL = MAY_DIFFER - {"max_train_steps"}  # settings that change nothing in a finished run


def carry_out(
    plan: Plan,
    place: Path,
    *,
    overwrite: bool = False,
    max_runs: int | None = None,
    quiet: bool = False,
    say: Callable[[str], None] = lambda text: None,
    command: str = "erasediff.compare",
) -> list[RunRow]:
    """Make what is missing of ``plan`` below ``place``, at most ``max_runs`` runs, and return a row for every run.

    Raises BadInput before anything runs: for what cannot be done, and for finished runs that the plan no longer
    describes (``overwrite`` makes those anew), or while another process carries out a plan here. Raises Interrupted
    (state saved; the same call goes on).
    """
    data = _data(plan)
    _check_models(plan, data)
    shop = Workshop(plan, place, data, _expected(plan, data), command, quiet, say)
    visiting = guests(plan, data)
    stale = [(job, why) for job in plan.jobs if (why := _stale(shop, job))]
    if stale and not overwrite:
        job, why = stale[0]
        raise BadInput(
            f"{place / job.place} was made by another plan: {why}; restore the plan, give another output_dir, "
            f"or --overwrite to make such runs anew ({len(stale)} of {len(plan.jobs)})"
        )
    with alone_in(place, "carrying out a plan"):
        write_json(place / PLAN, {"schema": 1, "plan": plan.content})
        for job, _ in stale:
            shutil.rmtree(place / job.place)
        return _carried_out(shop, visiting, max_runs)


def _carried_out(shop: Workshop, visiting: list[Guest], max_runs: int | None) -> list[RunRow]:
    """The runs that are missing, and a row for every run."""
    plan, place = shop.plan, shop.place
    judge, weights = _judge(shop)
    asked = _asked(plan, weights)
    around = references(shop, judge, asked)
    waiting = [job for job in plan.jobs if not finished(place / job.place, asked)]
    for number, job in enumerate(waiting[:max_runs], start=1):
        shop.say(f"[{number}/{len(waiting[:max_runs])}] {job.label}, {job.name}, seed {job.seed}")
        attempt(job, place / job.place, shop.data, quiet=shop.quiet, say=shop.say)
        _audited(shop, job, judge, asked)
    own = [_row(shop, job, asked) for job in plan.jobs]
    return [*around, *own, *received(shop, visiting, judge, asked)]


def _data(plan: Plan) -> ImageData:
    source = None if plan.data is not None else families.locate(plan.jobs[0].model)
    return load_data(plan.data, source)


def _check_models(plan: Plan, data: ImageData) -> None:
    check_one_of("features", plan.audit["features"], EXTRACTORS)
    clip_for(plan.audit.get("clip"), features=plan.audit["features"])
    if "classifier" in plan.audit:
        Judge.load(plan.audit["classifier"])
    check_config(
        [*plan.models.values(), *(m for runs in plan.retrained.values() for m in runs.values())], plan.model_config
    )
    for target in plan.targets().values():
        targets.split(target, data)
    for model in {str(m): m for m in plan.models.values()}.values():
        check_fit(load_model(model, plan.model_config)[0], data)
    for runs in plan.retrained.values():
        for model in runs.values():
            families.locate(model)


def _expected(plan: Plan, data: ImageData) -> dict[Path, dict[str, Any]]:
    """What run.json of each job must say; asking for it checks the method against model, target and settings."""
    planned: dict[tuple[str, str], dict[str, Any]] = {}
    hashes = {str(m): weights_of(m, plan.model_config) for m in plan.models.values()}
    made = {}
    for job in plan.jobs:
        key = (job.label, job.name)
        if key not in planned:
            asked: dict[str, Any] = {**job.training, "model_config": job.model_config, "dry_run": True, "quiet": True}
            planned[key] = erase(job.model, job.target, data, job.method, **asked).record
        training = {**planned[key]["training"], "seed": job.seed}
        base = {"sha256": hashes[str(job.model)]}
        record = {k: planned[key][k] for k in COMPARED} | {"training": training, "base_model": base}
        made[job.place] = json.loads(json.dumps(record, default=str))
    return made


def _stale(shop: Workshop, job: Job) -> str:
    """In what the run that is there differs from the plan; empty where it does not, or there is none."""
    directory = RunDirectory(shop.place / job.place)
    if not directory.record.exists():
        return ""
    found, wanted = directory.read(), shop.expected[job.place]
    for key, value in wanted["training"].items():
        if key not in MARGINAL and found["training"].get(key) != value:
            return f"its {key} was {found['training'].get(key)}, the plan says {value}"
    for key in ("target", "method", "data"):
        if found.get(key) != wanted[key]:
            return f"its {key} was {found.get(key)}, the plan says {wanted[key]}"
    if (found.get("base_model") or {}).get("sha256") != wanted["base_model"]["sha256"]:
        return "its base model had other weights than the plan's has now"
    return ""


def _judge(shop: Workshop) -> tuple[Judge | None, str | None]:
    """The judge of all audits (the plan's, or one that is trained once and kept) and the hash of its weights."""
    if shop.data.labels is None:
        return None, None
    named = shop.plan.audit.get("classifier")
    kept = Path(named or shop.place / CLASSIFIER)
    judge = Judge.load(kept) if named else _whole(kept)
    if judge is None:
        shop.say("training the judge of all audits")
        trained = judge_for(None, shop.data, shop.plan.audit["seed"], quiet=shop.quiet)
        if isinstance(trained, Judge):
            trained.save(kept)
        judge = Judge.load(kept)
    return judge, str(read_json(kept / RECORD_FILE)["weights_sha256"])


def _whole(kept: Path) -> Judge | None:
    """The judge, where it is there whole; a call that was stopped while it was written leaves a part of it."""
    try:
        return Judge.load(kept)
    except BadInput:
        return None


def _asked(plan: Plan, weights: str | None) -> dict[str, Any]:
    """What makes two audits comparable, as it stands in their settings."""
    settings = {k: v for k, v in plan.audit.items() if k != "classifier"}
    asked: dict[str, Any] = json.loads(json.dumps({"suite": plan.suite.to_dict(), **settings, "judge": weights}))
    return asked


def _audited(shop: Workshop, job: Job, judge: Judge | None, asked: Mapping[str, Any]) -> None:
    place = shop.place / job.place
    directory, record = read_run(place)
    if record.get("status") != COMPLETED or audit_is(place, asked) or broken(place):
        return
    result = examined(shop, place, job.target, judge, asked, place / "audit", record)
    write_atomic(directory.card, model_card(record, result))


def _row(shop: Workshop, job: Job, asked: Mapping[str, Any]) -> RunRow:
    place = shop.place / job.place
    kind = CONTROL if job.label == shop.plan.control else METHOD
    fields: dict[str, Any] = {"target": job.name, "seed": job.seed, "kind": kind}
    if audit_is(place, asked):
        return read(place).row(job.label, **fields)
    record = RunDirectory(place).read() if (place / "run.json").exists() else None
    status, detail = status_of(record) if record is not None else (NOT_RUN, "")
    if status not in (DIVERGED, NOT_RUN) and broken(place):
        status, detail = DIVERGED, NOT_FINITE
    elif status == COMPLETED or status.startswith("stopped"):
        status, detail = NOT_RUN, "not audited yet"
    cost = cost_of(place, record) if status != NOT_RUN else {}
    return RunRow(label=job.label, status=status, detail=detail, path=str(place), cost=cost, record=record, **fields)
