"""Carrying out a plan: every run and its audit once, and going on where an earlier call stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erasediff import families
from erasediff.api.attempt import attempt, audit_is, broken, finished
from erasediff.api.audit import audit
from erasediff.api.directory import RunDirectory, read_run
from erasediff.api.entries import AUDIT, cost_of, read, status_of
from erasediff.api.erase import erase
from erasediff.api.inputs import check_config, check_fit, load_data, load_model
from erasediff.api.judges import clip_for, judge_for
from erasediff.api.plan import Job, Plan, safe_name
from erasediff.api.run import MAY_DIFFER
from erasediff.auditing.attacks.base import BASE
from erasediff.auditing.classifier import RECORD_FILE, Judge
from erasediff.auditing.features import EXTRACTORS
from erasediff.auditing.result import ERASED, AuditResult
from erasediff.data import targets
from erasediff.data.sources import ImageData
from erasediff.errors import BadInput, check_one_of
from erasediff.families.precision import FULL
from erasediff.files import alone_in, read_json, write_atomic, write_json
from erasediff.report.aggregate import COMPLETED, CONTROL, DIVERGED, METHOD, MODEL, NOT_RUN, RunRow
from erasediff.report.card import model_card

PLAN, CLASSIFIER, MODELS = "plan.json", "classifier", "models"
COMPARED = ("target", "method", "data", "base_model", "training")
MARGINAL = MAY_DIFFER - {"max_train_steps"}  # settings that change nothing in a finished run


@dataclass(frozen=True)
class Workshop:
    """What all runs of a plan share. ``expected``: what run.json of each job, by its place, must say."""

    plan: Plan
    place: Path
    data: ImageData
    expected: Mapping[Path, dict[str, Any]]
    command: str
    quiet: bool
    say: Callable[[str], None]


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
        return _carried_out(shop, max_runs)


def _carried_out(shop: Workshop, max_runs: int | None) -> list[RunRow]:
    """The runs that are missing, and a row for every run."""
    plan, place = shop.plan, shop.place
    judge, weights = _judge(shop)
    asked = _asked(plan, weights)
    references = _references(shop, judge, asked)
    waiting = [job for job in plan.jobs if not finished(place / job.place, asked)]
    for number, job in enumerate(waiting[:max_runs], start=1):
        shop.say(f"[{number}/{len(waiting[:max_runs])}] {job.label}, {job.name}, seed {job.seed}")
        attempt(job, place / job.place, shop.data, quiet=shop.quiet, say=shop.say)
        _audited(shop, job, judge, asked)
    return references + [_row(shop, job, asked) for job in plan.jobs]


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
    hashes = {str(m): _hashes(m, plan.model_config) for m in plan.models.values()}
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


def _hashes(model: Any, config: str | None) -> dict[str, str]:
    return families.hashes(families.locate(model), config)


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
    kept = Path(shop.plan.audit.get("classifier") or shop.place / CLASSIFIER)
    if not kept.exists():
        shop.say("training the judge of all audits")
        trained = judge_for(None, shop.data, shop.plan.audit["seed"], quiet=shop.quiet)
        if isinstance(trained, Judge):
            trained.save(kept)
    return Judge.load(kept), str(read_json(kept / RECORD_FILE)["weights_sha256"])


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
    result = _examined(shop, place, job.target, judge, asked, place / "audit", record)
    write_atomic(directory.card, model_card(record, result))


def _examined(
    shop: Workshop,
    model: Any,
    target: Sequence[Any],
    judge: Judge | None,
    asked: Mapping[str, Any],
    place: Path,
    record: dict[str, Any] | None,
    *,
    forgetful: bool = True,
) -> AuditResult:
    """Audit one model alone and write the audit; audit.json comes last, so that where it is, all is."""
    settings, suite = shop.plan.audit, shop.plan.suite
    if not forgetful:  # how fast a model relearns what it never forgot says nothing
        suite = replace(suite, attacks=tuple(a for a in suite.attacks if BASE in a.SUBJECTS))
    done = audit(
        model,
        target=target,
        data=shop.data,
        suite=suite,
        classifier=judge,
        features=settings["features"],
        clip=settings.get("clip"),
        guidance_scale=settings["guidance_scale"],
        mixed_precision=settings.get("mixed_precision", FULL),
        seed=settings["seed"],
        quiet=shop.quiet,
        model_config=shop.plan.model_config if Path(str(model)).is_file() else None,
    )
    done.result.setting.update(asked=dict(asked), command=shop.command)
    place.mkdir(parents=True, exist_ok=True)
    replace(done, run=record).to_html(place / "report.html")
    write_json(place / AUDIT, done.result.to_dict())
    return done.result


def _references(shop: Workshop, judge: Judge | None, asked: Mapping[str, Any]) -> list[RunRow]:
    """The base model and, where given, the retrained one, audited once for each target and seed they serve."""
    plan, rows = shop.plan, []
    single = len({str(m) for m in plan.models.values()}) == 1
    seeds: dict[int | None, Any] = {None if single else s: model for s, model in plan.models.items()}
    for name, target in plan.targets().items():
        for label, models in (("base", seeds), ("retrained", plan.retrained.get(name, {}))):
            for seed, model in models.items():
                place = shop.place / MODELS / safe_name(name) / label / ("all" if seed is None else str(seed))
                weights = _hashes(model, plan.model_config)
                wanted = {**asked, "weights": weights}
                if not (place / AUDIT).exists() or read_json(place / AUDIT)["setting"].get("asked") != wanted:
                    shop.say(f"auditing the {label} model, {name}" + ("" if seed is None else f", seed {seed}"))
                    _examined(shop, model, target, judge, wanted, place, None, forgetful=label != BASE)
                rows.append(_model_row(place, label, name, seed))
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


def _row(shop: Workshop, job: Job, asked: Mapping[str, Any]) -> RunRow:
    place = shop.place / job.place
    kind = CONTROL if job.label == shop.plan.control else METHOD
    fields: dict[str, Any] = {"target": job.name, "seed": job.seed, "kind": kind}
    if audit_is(place, asked):
        return read(place).row(job.label, **fields)
    record = RunDirectory(place).read() if (place / "run.json").exists() else None
    status, detail = status_of(record) if record is not None else (NOT_RUN, "")
    if status not in (DIVERGED, NOT_RUN) and broken(place):
        status, detail = DIVERGED, "weights are not finite after the last step"
    elif status == COMPLETED or status.startswith("stopped"):
        status, detail = NOT_RUN, "not audited yet"
    cost = cost_of(place, record) if status != NOT_RUN else {}
    return RunRow(label=job.label, status=status, detail=detail, path=str(place), cost=cost, record=record, **fields)
