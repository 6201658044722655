"""``audit``: what a model forgot, what it kept, with the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from erasediff.api.directory import read_run, refuse_occupied
from erasediff.api.inputs import check_fit, check_target_kinds, forgotten_before, load_data, load_model, parsed_targets
from erasediff.auditing.classifier import Judge, train_classifier
from erasediff.auditing.examine import Pictures, Question, examine, planned_samples
from erasediff.auditing.features import EXTRACTORS
from erasediff.auditing.result import ERASED, AuditResult, parse_requirement
from erasediff.auditing.suite import SUITES, Suite
from erasediff.data import targets
from erasediff.data.sources import ImageData
from erasediff.errors import BadInput, listing, unknown
from erasediff.families.base import Model
from erasediff.files import writable, write_atomic, write_json
from erasediff.provenance import machine, versions
from erasediff.report.card import model_card
from erasediff.report.page import render, write

GOALS = ("data", "concept")
FILES = ("audit.json", "report.html")


@dataclass(frozen=True)
class Audit:
    """An audit's result with what its report needs."""

    result: AuditResult
    pictures: Pictures
    run: dict[str, Any] | None = None

    @property
    def measurements(self) -> Sequence[Any]:
        return self.result.measurements

    @property
    def verdict(self) -> Any:
        return self.result.verdict

    def require(self, *requirements: str) -> None:
        """Raise RequirementFailed unless all hold, for example ``"forget_rate<=0.02"``."""
        self.result.require(*requirements)

    def html(self) -> str:
        """The report as one self-contained page."""
        return render(self.result, self.pictures, run=self.run)

    def to_html(self, path: str | Path) -> Path:
        """Write the report to ``path``."""
        write(path, self.html())
        return Path(path)


def audit(
    model: Any,
    *,
    target: Any = None,
    data: ImageData | str | None = None,
    base: Any = None,
    control: Any = None,
    retrained: Any = None,
    goal: str = "data",
    suite: str | Suite = "quick",
    classifier: str | Path | Judge | None = None,
    features: str = "classifier",
    guidance_scale: float = 1.5,
    seed: int = 0,
    require: Sequence[str] = (),
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Audit:
    """Measure ``model`` and, from the same seeds, the models it is compared with.

    Args:
        model: the erased model: a Run, a pipeline, its directory or a run directory.
        target: what was to be forgotten; by default what the model's run.json says, earlier erasures included.
        data: real data; by default what the run.json says.
        base, control, retrained: the model before, one fine-tuned on the retain set only, one without the target.
        goal: ``data`` (the influence of samples) or ``concept`` (a capability).
        suite: quick, standard or full: how many samples, which budgets; or sizes of your own.
        classifier: the judge: a directory, or by default one trained on the training part of ``data``.
        features: the space in which distributions are compared.
        guidance_scale: classifier-free guidance of conditional samples.
        require: lines like ``forget_rate<=0.02``, checked on the erased model after everything is written.

    Raises:
        BadInput: input that cannot be audited. RequirementFailed: a requirement does not hold.
    """
    chosen_suite = suite if isinstance(suite, Suite) else _one_of("suite", suite, SUITES)
    _one_of("goal", goal, dict.fromkeys(GOALS))
    _one_of("features", features, EXTRACTORS)
    for line in require:
        parse_requirement(line)
    erased, source, hashes = load_model(model)
    record = _record_of(source)
    wanted = parsed_targets(target if target is not None else _recorded_target(record))
    images = load_data(data, source)
    others = {"base": base, "control": control, "retrained": retrained}
    subjects, weights = {ERASED: erased}, {ERASED: hashes}
    for name, other in others.items():
        if other is not None:
            subjects[name], _, weights[name] = load_model(other)
    _check_subjects(subjects, images)
    check_target_kinds(wanted, erased.family)
    split = targets.split(wanted, images, forgotten_before(source, besides=wanted))
    place = Path(output_dir) if output_dir is not None else None
    if place is not None:
        refuse_occupied(place, FILES, overwrite=overwrite, what="an audit")
    for subject in subjects.values():
        subject.denoiser.to("cuda" if torch.cuda.is_available() else "cpu")
    judge = judge_for(classifier, images, seed, quiet=quiet)
    features = "pixels" if judge is None and features == "classifier" else features
    question = Question(
        target=listing(wanted),
        goal=goal,
        data=images,
        forget=split.forget,
        retain=split.retain,
        classes=split.classes if erased.conditions.num_classes else (),
        gone=split.gone,
        judge=judge,
        features=features,
        suite=chosen_suite,
        guidance_scale=guidance_scale,
        seed=seed,
    )
    with tqdm(total=planned_samples(subjects, question), desc="audit", unit="sample", disable=quiet) as bar:
        result, pictures = examine(
            subjects, replace(question, tick=lambda count: bar.update(count), say=bar.set_postfix_str)
        )
    result.setting.update(
        versions=versions(),
        machine=machine(),
        models=_sources({ERASED: model, **others}),
        model_hashes={name: next(iter(found.values())) for name, found in weights.items() if found},
    )
    done = Audit(result, pictures, record)
    if place is not None:
        _write(done, judge, place, source)
    result.require(*require)
    return done


def judge_for(given: str | Path | Judge | None, data: ImageData, seed: int, *, quiet: bool) -> Judge | None:
    """The judge given, or one trained on the training part of ``data``; ``None`` for data without labels."""
    if isinstance(given, Judge):
        return given
    if given is not None:
        return Judge.load(given)
    if data.labels is None:
        return None
    kept, held = ~data.held_out, data.held_out
    bar = tqdm(desc=f"judge trained on {data.spec}", unit="step", disable=quiet)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    judge = train_classifier(
        data.floats(kept),
        data.labels[kept],
        num_classes=len(data.class_names),
        held_out=(data.floats(held), data.labels[held]),
        seed=seed,
        class_names=data.class_names,
        trained_on=f"{data.spec} (training part)",
        progress=progress,
    )
    bar.close()
    return judge


def _write(done: Audit, judge: Judge | None, place: Path, source: Path | None) -> None:
    with writable(place):
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / "audit.json", done.result.to_dict())
        done.to_html(place / "report.html")
        if judge is not None:
            judge.save(place / "classifier")
    if done.run is not None and source is not None:
        directory, _ = read_run(source)
        write_atomic(directory.card, model_card(done.run, done.result))


def _one_of(what: str, given: str, allowed: Any) -> Any:
    if given not in allowed:
        raise unknown(what, given, allowed)
    return allowed[given]


def _record_of(source: Path | None) -> dict[str, Any] | None:
    try:
        return read_run(source)[1] if source is not None else None
    except BadInput:
        return None


def _recorded_target(record: dict[str, Any] | None) -> list[str]:
    if not record or not record.get("target"):
        raise BadInput("no target given, and the model has no run.json that names one; give --target")
    return [str(t) for t in [*record["target"], *record.get("gone", [])]]


def _check_subjects(subjects: dict[str, Model], images: ImageData) -> None:
    for name, subject in subjects.items():
        check_fit(subject, images)
        _check_alike(name, subject, subjects[ERASED])


def _check_alike(name: str, subject: Model, erased: Model) -> None:
    if subject.family != erased.family:
        raise BadInput(f"the {name} model is of family {subject.family}, the erased model of {erased.family}")
    theirs, ours = subject.denoiser.state_dict(), erased.denoiser.state_dict()
    if {k: v.shape for k, v in theirs.items()} != {k: v.shape for k, v in ours.items()}:
        raise BadInput(f"the {name} model has other weights (names or shapes) than the erased model: not comparable")


def _sources(models: dict[str, Any]) -> dict[str, str]:
    return {k: str(getattr(v, "directory", v)) for k, v in models.items() if v is not None}
