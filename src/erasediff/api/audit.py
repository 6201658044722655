"""``audit``: what a model forgot, what it kept, with the evidence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from erasediff.api.directory import AUDIT, read_run
from erasediff.api.judges import clip_for, judge_for
from erasediff.api.subjects import Subjects
from erasediff.auditing.cache import Cache, Pictures
from erasediff.auditing.classifier import Judge
from erasediff.auditing.clip import Clip
from erasediff.auditing.examine import Examination
from erasediff.auditing.features import EXTRACTORS, AnyJudge
from erasediff.auditing.question import Question
from erasediff.auditing.result import ERASED, AuditResult, parse_requirement
from erasediff.auditing.suite import Suite
from erasediff.auditing.suites import SUITES, with_attacks
from erasediff.data.images import ImageData
from erasediff.errors import BadInput, check_one_of, listing
from erasediff.families.precision import AUTOCAST, FULL
from erasediff.files import joint_hash, read_json, sha256, writable, write_atomic, write_json
from erasediff.provenance import machine, versions
from erasediff.report.card import model_card
from erasediff.report.numbers import duration
from erasediff.report.page import render, write
from erasediff.report.record import deletion_record, render_record

ALLOWED: dict[str, Iterable[str]] = {
    "goal": ("data", "concept"),
    "features": EXTRACTORS,
    "mixed_precision": AUTOCAST,
}
FILES = (AUDIT, "report.html")


@dataclass(frozen=True)
class Audit:
    """An audit's result with what its report needs."""

    result: AuditResult
    pictures: dict[str, Pictures]
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
    model_config: str | Path | None = None,
    goal: str = "data",
    suite: str | Suite = "quick",
    attacks: Sequence[str] | None = None,
    classifier: str | Path | AnyJudge | None = None,
    features: str = "classifier",
    clip: str | Path | Clip | None = None,
    guidance_scale: float = 1.5,
    mixed_precision: str = FULL,
    prompt_template: str | None = None,
    seed: int = 0,
    require: Sequence[str] = (),
    show_forget_images: bool = False,
    request: str | None = None,
    output_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> Audit:
    """Measure ``model`` and, from the same seeds, the models it is compared with; attack it; give a verdict.

    Every answer is kept in ``output_dir``/cache under a hash of what it depends on: a stopped audit goes on where it
    was, and one that differs in one attack asks only that.

    Args:
        model: the erased model: a Run, a pipeline, its directory, a run directory, a Hub id, a ``.safetensors`` file.
        target: what was to be forgotten; by default what the model's run.json says, earlier erasures included.
        data: real data; by default what the run.json says.
        base, control, retrained: the model before, one fine-tuned on the retain set only, one without the target.
        model_config: how those of the models are built that are single files; see :func:`erasediff.erase`.
        goal: ``data`` (the influence of samples) or ``concept`` (a capability).
        suite: quick, standard or full: how many samples, which attacks with which budgets; or a Suite of your own.
        attacks: names of the attacks to run instead of the suite's; none of them for an empty list.
        classifier: the judge: a directory, ``clip``, or by default one trained on the training part of ``data``.
        features: the space in which distributions are compared: ``classifier``, ``pixels`` or ``clip``.
        clip: a CLIP model in safetensors (directory or Hub id): CLIP scores of models that are asked in words, and what
            ``classifier="clip"`` and ``features="clip"`` ask.
        guidance_scale: classifier-free guidance of conditional samples.
        mixed_precision: no, bf16 or fp16: of the denoiser where images are drawn and where relearning and retain
            training train copies; scores, searches and instruments are fp32 in any case.
        prompt_template: for models asked in words, other words than those of the erasure: ``{} on a table``.
        require: lines like ``forget_rate<=0.02``, checked on the erased model after everything is written.
        request: words of the deletion request; a deletion record (record.json, record.html) is then written too.
        cache_dir: where answers are kept instead, so that several audits share those on the same base model.
        show_forget_images: for a target of samples, do not leave drawn copies of them out of the report.
        say: is told in a line what will be measured, before it is.

    Raises:
        BadInput: input that cannot be audited. RequirementFailed: a requirement does not hold.
    """
    chosen = _suite(suite, attacks)
    _check(require, goal=goal, features=features, mixed_precision=mixed_precision)
    place = Path(output_dir) if output_dir is not None else None
    if request is not None and place is None:
        raise BadInput("a deletion record of the request is written beside the audit; give an output_dir")
    others = {name: m for name, m in (("base", base), ("control", control), ("retrained", retrained)) if m is not None}
    seen = clip_for(clip, classifier=classifier, features=features)
    subjects = Subjects.load(model, others, target, data, prompt_template, model_config)
    settings = {"goal": goal, "suite": chosen, "features": features, "guidance_scale": guidance_scale, "seed": seed}
    worded = {} if prompt_template is None else {"prompt_template": prompt_template}
    # As it was asked before there was a choice: an old audit may be repeated.
    worded |= {} if mixed_precision == FULL else {"mixed_precision": mixed_precision}
    worded |= {} if model_config is None else {"model_config": str(model_config)}
    worded |= {} if seen is None else {"clip": seen.title if isinstance(clip, Clip) else str(clip)}
    asked = _asked(subjects, {ERASED: model, **others}, {**settings, **worded, "classifier": classifier})
    if place is not None and not overwrite:
        _refuse_other(place, asked)
    kept = Path(cache_dir) if cache_dir is not None else place / "cache" if place is not None else None
    judge = judge_for(classifier, subjects.images, seed, quiet=quiet, kept=kept, clip=seen, texts=subjects.texts)
    features = "pixels" if judge is None and features == "classifier" else features
    decided = {**settings, "features": features, "mixed_precision": mixed_precision}
    question = subjects.question(judge=judge, clip=seen, **decided)
    with writable(kept) if kept is not None else nullcontext():
        result, pictures = _examined(subjects, question, kept, show_forget_images, quiet=quiet, say=say)
    result.setting.update(
        request=asked,
        versions=versions(),
        machine=machine(),
        models=asked["models"],
        model_hashes={name: joint_hash(found) for name, found in subjects.weights.items() if found},
        model_weights={name: dict(found) for name, found in subjects.weights.items() if found},
    )
    done = Audit(result, pictures, subjects.record)
    if place is not None:
        _write(done, judge, place, subjects.source)
        if request is not None:
            _write_record(done, place, request)
    result.require(*require)
    return done


def _check(require: Sequence[str], **given: str) -> None:
    """What can be refused before anything is loaded."""
    for name, value in given.items():
        check_one_of(name, value, ALLOWED[name])
    for line in require:
        parse_requirement(line)


def _suite(given: str | Suite, attacks: Sequence[str] | None) -> Suite:
    if not isinstance(given, Suite):
        check_one_of("suite", given, SUITES)
        given = SUITES[given]
    return given if attacks is None else with_attacks(given, attacks)


def _examined(
    subjects: Subjects,
    question: Question,
    kept: Path | None,
    show_forgotten: bool,
    *,
    quiet: bool,
    say: Callable[[str], object],
) -> tuple[AuditResult, dict[str, Pictures]]:
    with tqdm(desc="audit", unit=" passes", unit_scale=True, disable=quiet) as bar:
        watched = replace(question, tick=bar.update, say=bar.set_postfix_str)
        examination = Examination.plan(subjects.models, watched, Cache(kept), show_forgotten=show_forgotten)
        bar.total = examination.cost()
        pace = examination.seconds()
        say(examination.announcement() + (f", about {duration(pace)} here" if pace else ""))
        return examination.run()


def _write(done: Audit, judge: AnyJudge | None, place: Path, source: Path | None) -> None:
    with writable(place):
        place.mkdir(parents=True, exist_ok=True)
        done.to_html(place / "report.html")
        if isinstance(judge, Judge):  # another one is the user's own CLIP, which audit.json names by its hash
            judge.save(place / "classifier")
        write_json(place / AUDIT, done.result.to_dict())
    if done.run is not None and source is not None:
        directory, _ = read_run(source)
        write_atomic(directory.card, model_card(done.run, done.result))


def _asked(subjects: Subjects, models: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The question as audit.json records it: whether another audit asks the same."""
    classifier = settings["classifier"]
    asked = {
        **settings,
        "target": subjects.target,
        "models": {name: _source(model) for name, model in models.items()},
        "data": subjects.images.spec,
        "suite": settings["suite"].to_dict(),
        "classifier": None if classifier is None else str(getattr(classifier, "name", classifier)),
    }
    found: dict[str, Any] = json.loads(json.dumps(asked))  # as it will be read again: lists, not tuples
    return found


def _write_record(done: Audit, place: Path, request: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    digest = sha256(place / AUDIT)
    record = deletion_record(done.result, done.run, request=request, date=now, audit_sha256=digest)
    write_json(place / "record.json", record)
    write(place / "record.html", render_record(record))


def _refuse_other(place: Path, request: dict[str, Any]) -> None:
    """An audit that asked something else is not replaced; the same one may be repeated, and is, from the cache."""
    if place.exists() and not place.is_dir():
        raise BadInput(f"output_dir {place} is a file; give a directory")
    there = [name for name in FILES if (place / name).exists()]
    if not there:
        return
    before = read_json(place / AUDIT) if AUDIT in there else {}
    if (before.get("setting") or {}).get("request") != request:
        raise BadInput(
            f"output_dir {place} already holds an audit ({listing(there)}) that asked something else; give another "
            "one, or --overwrite"
        )


def _source(model: Any) -> str:
    directory = getattr(model, "directory", model)
    return str(directory) if isinstance(directory, str | Path) else f"a {type(model).__name__} in memory"
