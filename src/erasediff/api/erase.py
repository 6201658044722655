"""``erase``: a model and something it should no longer know in, a model without it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from erasediff.api.editing import beginning, check_settings, concepts, run_edit, texts_of
from erasediff.api.inputs import (
    asked_in_words,
    check_fit,
    check_target_kinds,
    forgotten_before,
    load_data,
    load_model,
    parsed_targets,
    words,
)
from erasediff.api.launch import Job, launch
from erasediff.api.needs import check_needs, described, name_of
from erasediff.api.run import Run, check_fields, new_record, with_fields
from erasediff.data import targets
from erasediff.data.sources import ImageData
from erasediff.errors import BadInput, listing
from erasediff.families.base import Model
from erasediff.methods import METHODS
from erasediff.methods.base import Method, WeightEdit, decided
from erasediff.training.config import ERASE_DEFAULTS, TrainingConfig


def erase(
    model: Any,
    target: targets.Target | str | Sequence[targets.Target | str],
    data: ImageData | str | None = None,
    method: Method | str = "erasediff",
    *,
    prompt_template: str | None = None,
    anchor: str | None = None,
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
        model: a diffusers pipeline, its directory, or a run directory; the model given is not changed.
        target: ``Class(7)``, ``Samples("list.txt")``, their text form, or several of them.
        data: where forget and retain samples come from; by default what a run directory says it was trained on.
        method: a method object, or its name with its default fields.
        prompt_template: for models asked in words: how a class or caption is said, ``a photo of a {}``.
        anchor: what is to come in the target's place: ``a painting`` for models asked in words, ``class:3`` for
            models asked by class.
        init: a method without steps (or its name): the steps begin at its weights, the frozen model stays the original.
        training, fields: the loop's settings, as a whole or one by one (``max_train_steps=...``).
        dry_run: check everything and return the plan in ``.record`` without training or writing.

    Raises:
        BadInput: anything that cannot be done as asked; nothing has been written then.
        StoppedShort: the losses became non-finite. Interrupted: SIGINT; the state is saved.
    """
    config = with_fields(training, ERASE_DEFAULTS, fields)
    chosen: Method = METHODS[method]() if isinstance(method, str) else method
    wanted = parsed_targets(target)
    adapted, source, hashes = load_model(model)
    images = load_data(data, source)
    adapted = asked_in_words(adapted, images, prompt_template, anchor)
    check_fit(adapted, images)
    check_target_kinds(wanted, adapted.family)
    gone = forgotten_before(source, besides=wanted)
    split = targets.split(wanted, images, gone)
    adapted.conditions = replace(adapted.conditions, excluded=split.excluded)
    chosen, begin = _checked(chosen, init, adapted, None if images.labels is None else images.labels[split.forget])
    chosen = with_what_stops_need(chosen, config)
    record = new_record(
        "erase",
        config,
        target=[str(t) for t in wanted],
        gone=[str(t) for t in gone],
        method=described(chosen),
        **({} if begin is None else {"init": described(begin)}),
        data={"spec": images.spec, "sha256": images.fingerprint(), "n": len(split.forget) + len(split.retain)},
        **words(adapted, prompt_template, anchor),
        base_model={"source": str(source) if source else None, "sha256": hashes},
        plan=_plan(split, chosen),
    )
    texts = texts_of(wanted, images.class_names)
    if isinstance(chosen, WeightEdit):
        check_settings(chosen, config, resume_from_checkpoint)
        asked = concepts(adapted, texts, prompt_template)
        return run_edit(chosen, adapted, asked, record, output_dir, overwrite=overwrite, dry_run=dry_run)
    start = None if begin is None else partial(begin.edit, *concepts(adapted, texts, prompt_template))
    job = Job(
        model=adapted,
        method=chosen,
        data=images,
        retain=split.retain,
        forget=split.forget,
        config=config,
        initial=start,
    )
    return launch(
        job,
        record,
        title=f"{name_of(chosen)} {listing(wanted)}",
        output_dir=output_dir,
        overwrite=overwrite,
        resume_from_checkpoint=resume_from_checkpoint,
        dry_run=dry_run,
        quiet=quiet,
    )


def _checked(
    method: Method, init: WeightEdit | str | None, model: Model, forgotten: Tensor | None
) -> tuple[Method, WeightEdit | None]:
    """The method as it will run, and the edit that it starts from. Raises BadInput for what the model lacks."""
    chosen = decided(method, model.conditions)
    check_needs(chosen, model, forgotten)
    return chosen, beginning(init, chosen, model, forgotten)


def _plan(split: targets.Split, method: Method) -> dict[str, Any]:
    return {
        "forget_samples": len(split.forget),
        "retain_samples": len(split.retain),
        "forward_equivalents_per_step": method.forward_equivalents(),
    }


def with_what_stops_need(method: Method, config: TrainingConfig) -> Method:
    """The method, measuring what the stopping rules of ``config`` look at. Raises BadInput if it cannot."""
    name = name_of(method)
    if config.retain_budget is not None and not method.needs.retain_set:
        raise BadInput(f"retain_budget cannot be kept: method {name} never looks at the retain set")
    if config.slack_tolerance is None:
        return method
    if not hasattr(method, "track_slack"):
        raise BadInput(f"slack_tolerance cannot be checked: method {name} has no forget target whose floor is known")
    tracking: Method = replace(method, track_slack=True)  # type: ignore[type-var]
    return tracking


def method_named(name: str, fields: dict[str, Any]) -> Method:
    """The method of that name with ``fields`` set. Raises BadInput for an unknown name or field."""
    kind = METHODS[name]
    check_fields(f"field of method {name}", kind, fields)
    made: Method = kind(**fields)
    return made
