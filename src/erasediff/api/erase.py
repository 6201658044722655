"""``erase``: a model and something it should no longer know in, a model without it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from erasediff.api.directory import RunDirectory
from erasediff.api.editing import beginning, check_settings, concepts, run_edit, texts_of
from erasediff.api.forecast import check_optimizer, forecast
from erasediff.api.gathering import Gathered, gathered
from erasediff.api.inputs import (
    check_config,
    check_target_kinds,
    forgotten_before,
    load_model,
    origin,
    parsed_targets,
)
from erasediff.api.launch import Job, launch
from erasediff.api.needs import check_needs, described, name_of
from erasediff.api.pairing import paired
from erasediff.api.presets import find
from erasediff.api.run import Run, check_fields, new_record, with_fields
from erasediff.api.showing import Wishes
from erasediff.api.weights import base_entry, steps_of, trained_weights
from erasediff.data import targets
from erasediff.data.generated import drawing_fields
from erasediff.data.images import ImageData
from erasediff.errors import BadInput, listing
from erasediff.families.base import Model
from erasediff.methods import METHODS
from erasediff.methods.base import Method, WeightEdit, decided, measures_slack, step_cost
from erasediff.training.config import ERASE_DEFAULTS, TrainingConfig


def erase(
    model: Any,
    target: targets.Target | str | Sequence[targets.Target | str],
    data: ImageData | str | None = None,
    method: Method | str = "erasediff",
    *,
    model_config: str | Path | None = None,
    preset: str | None = None,
    prompt_template: str | None = None,
    anchor: str | Sequence[str] | None = None,
    images: str | Path | Sequence[str | Path] | None = None,
    prompts: str | Path | Sequence[str | Path] | None = None,
    retain_images: str | Path | None = None,
    retain_prompts: str | Path | Sequence[str | Path] | None = None,
    generated: str | Path | None = None,
    skip_unreadable: bool = False,
    init: WeightEdit | str | None = None,
    output_dir: str | Path | None = None,
    training: TrainingConfig | None = None,
    overwrite: bool = False,
    resume_from_checkpoint: str | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    **fields: Any,
) -> Run:
    """Remove the influence of ``target`` from ``model``, keeping the rest.

    What a run directory's model had to forget before stays out of the retain set, so that it does not come back.

    Args:
        model: a diffusers pipeline, its directory, a run directory, a Hub id, or a single ``.safetensors`` file; the
            model given is not changed.
        target: ``Class(7)``, ``Samples("list.txt")``, their text form, or several of them.
        data: where forget and retain samples come from; by default what a run directory says it was trained on. A
            concept needs none: it is shown by images or prompts of its own, or the model draws what it means by it.
        method: a method object, or its name with its default fields.
        model_config: for a single file, the pipeline directory or Hub id that says how it is built; by default what
            diffusers takes for a file with its keys.
        preset: style, object, person or nudity (``erasediff list presets``): what to say and to train for such a
            concept, where nothing else is given.
        prompt_template: for models asked in words: how a class, caption or concept is said, ``a photo of a {}``.
        anchor: what is to come in the target's place: ``a painting`` for models asked in words, ``class:3`` for
            models asked by class.
        images: a folder of images of the concept, of any size; captions from its metadata.jsonl, or the prompts.
        prompts: a file with a prompt of the concept a line. ``anchor``, ``images`` and ``prompts`` serve all concepts,
            or are lists with one for each in their order.
        retain_images: a folder of images of what is to be kept.
        retain_prompts: files or texts: prompts of what is to be kept, drawn by the model.
        generated: a run, or its generated/, whose drawn images are taken over where they are the same.
        skip_unreadable: leave images out that cannot be read, and count them.
        init: a method without steps (or its name): the steps begin at its weights, the frozen model stays the original.
        training, fields: the loop's settings, as a whole or one by one (``max_train_steps=...``), and those of
            :class:`erasediff.Generation` (``num_forget_images=...``).
        dry_run: check everything and return the plan in ``.record`` without training or writing.

    Raises:
        BadInput: anything that cannot be done as asked; nothing has been written then.
        StoppedShort: the losses became non-finite. Interrupted: SIGINT; the state is saved.
    """
    drawing, fields = drawing_fields(fields)
    with_fields(training, ERASE_DEFAULTS, fields)  # refused before anything is read
    chosen: Method = METHODS[method]() if isinstance(method, str) else method
    wanted = paired(parsed_targets(target), anchor=anchor, images=images, prompts=prompts)
    check_config([model], model_config)
    source = Source(*load_model(model, model_config))
    check_target_kinds(wanted, source.model.family)
    if preset is not None:
        shown: dict[str, Any] = {"by_data": data is not None, "own": retain_images is not None}
        wanted, more, retain_prompts = find(preset).filled(wanted, source.model.family, fields, retain_prompts, **shown)
        fields = more if training is None else fields
    if training is None:
        fields = steps_of(source.model.family, fields, wanted, chosen)
    config = with_fields(training, ERASE_DEFAULTS, fields)
    wishes = Wishes(
        anchor=anchor,
        retain_images=retain_images,
        retain_prompts=retain_prompts,
        generated=generated,
        skip_unreadable=skip_unreadable,
        prompt_template=prompt_template,
        drawing=drawing,
        seed=config.seed,
        folder=None if output_dir is None else RunDirectory(Path(output_dir)).generated,
    )
    gone = forgotten_before(source.path, besides=wanted)
    found = gathered(source.model, wanted, data, source.path, source.hashes, wishes, gone)
    chosen, begin = _checked(chosen, init, found, config)
    record = _record(config, wanted, gone, chosen, found)
    record |= {} if begin is None else {"init": described(begin)}
    record |= {} if preset is None else {"preset": preset}
    task = Task(source, found, chosen, begin, config, record, origin(model, source.path, model_config))
    run: dict[str, Any] = {"resume_from_checkpoint": resume_from_checkpoint, "quiet": quiet}
    run |= {"output_dir": output_dir, "overwrite": overwrite, "dry_run": dry_run}
    return _done(task, wanted, prompt_template, **run)


class Source(NamedTuple):
    """The model as it was given: adapted, the path that it came from (if any), and the hashes of its weight files."""

    model: Model
    path: Path | None
    hashes: dict[str, str] | None


class Task(NamedTuple):
    """An erasure that was checked, with the beginning of its run.json; ``named_as``: what the base model is called."""

    source: Source
    found: Gathered
    method: Method
    begin: WeightEdit | None
    config: TrainingConfig
    record: dict[str, Any]
    named_as: dict[str, Any]


def _done(
    task: Task,
    wanted: Sequence[targets.Target],
    template: str | None,
    *,
    resume_from_checkpoint: str | None,
    quiet: bool,
    **place: Any,
) -> Run:
    """Edit the weights, or take the steps."""
    (model, path, hashes), found, method, begin, config, record, named_as = task
    texts, model = texts_of(wanted, found.data), found.model
    if isinstance(method, WeightEdit):
        check_settings(method, config, resume_from_checkpoint)
        record |= base_entry(path, hashes, named_as)
        return run_edit(method, model, concepts(model, texts, template), record, **place)
    record |= trained_weights(model, config, path, hashes, named_as)
    record["plan"] |= forecast(found, method, config)
    job = Job(
        model=model,
        method=method,
        data=found.data,
        retain=found.split.retain,
        forget=found.split.forget,
        config=config,
        shown=found.shown,
        initial=None if begin is None else partial(begin.edit, *concepts(model, texts, template)),
    )
    title = f"{name_of(method)} {listing(wanted)}"
    return launch(job, record, title=title, resume_from_checkpoint=resume_from_checkpoint, quiet=quiet, **place)


def _record(
    config: TrainingConfig,
    wanted: Sequence[targets.Target],
    gone: Sequence[targets.Target],
    method: Method,
    found: Gathered,
) -> dict[str, Any]:
    forget, retain = len(found.split.forget), len(found.split.retain)
    plan = {
        "forget_samples": forget,
        "retain_samples": retain,
        "forward_equivalents_per_step": step_cost(method, config.forget_share),
    }
    return new_record(
        "erase",
        config,
        target=[str(t) for t in wanted],
        gone=[str(t) for t in gone],
        method=described(method),
        data={"spec": found.data.spec, "sha256": found.fingerprint(), "n": forget + retain},
        **found.record,
        plan={**plan, **found.plan},
    )


def _checked(
    method: Method, init: WeightEdit | str | None, found: Gathered, config: TrainingConfig
) -> tuple[Method, WeightEdit | None]:
    """The method as it will run, and the edit that it starts from. Raises BadInput for what model or settings lack."""
    chosen = decided(method, found.model.conditions)
    forgotten = None if found.data.labels is None else found.data.labels[found.split.forget]
    check_needs(chosen, found.model, forgotten)
    begin = beginning(init, chosen, found.model, forgotten)
    check_optimizer(chosen, config)
    if chosen.needs.paired and config.forget_share != 1:
        raise BadInput(
            f"forget_batch_size {config.forget_batch_size}: method {name_of(chosen)} mixes forget and retain samples "
            f"one by one; leave it out, or give {config.train_batch_size}, the train_batch_size"
        )
    if begin is not None and config.rank is not None:
        raise BadInput(
            f"init {name_of(begin)} edits whole weights, and a LoRA leaves them as they are; leave out rank, or erase "
            f"with method {name_of(begin)} first and train the LoRA on that run"
        )
    return with_what_stops_need(chosen, config), begin


def with_what_stops_need(method: Method, config: TrainingConfig) -> Method:
    """The method, measuring what the stopping rules of ``config`` look at. Raises BadInput if it cannot."""
    name = name_of(method)
    if config.retain_budget is not None and not method.needs.retain_set:
        raise BadInput(f"retain_budget cannot be kept: method {name} never looks at the retain set")
    if config.slack_tolerance is None:
        return method
    if not measures_slack(method):
        able = listing(sorted(n for n, kind in METHODS.items() if measures_slack(kind)))
        raise BadInput(
            f"slack_tolerance cannot be checked: method {name} has no forget target whose floor is known; leave it "
            f"out, or use one of: {able}"
        )
    if not hasattr(method, "track_slack"):
        return method
    tracking: Method = replace(method, track_slack=True)  # type: ignore[type-var]
    return tracking


def method_named(name: str, fields: dict[str, Any]) -> Method:
    """The method of that name with ``fields`` set. Raises BadInput for an unknown name or field."""
    kind = METHODS[name]
    check_fields(f"field of method {name}", kind, fields)
    made: Method = kind(**fields)
    return made
