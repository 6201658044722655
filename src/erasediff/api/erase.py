"""``erase``: a model and something it should no longer know in, a model without it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

from erasediff import families
from erasediff.api.directory import RunDirectory, read_run
from erasediff.api.run import Run, complete, new_record, resumed, with_fields
from erasediff.data import sources, targets
from erasediff.data.pairs import Pairs
from erasediff.data.sources import ImageData
from erasediff.errors import BadInput, listing, unknown
from erasediff.families.base import Model, check_images
from erasediff.files import weight_hashes
from erasediff.methods import METHODS
from erasediff.methods.base import GradientMethod
from erasediff.training.config import ERASE_DEFAULTS, TrainingConfig
from erasediff.training.loop import start
from erasediff.training.processes import Processes


def erase(
    model: Any,
    target: targets.Target | str | Sequence[targets.Target | str],
    data: ImageData | str | None = None,
    method: GradientMethod | str = "erasediff",
    *,
    output_dir: str | Path | None = None,
    training: TrainingConfig | None = None,
    overwrite: bool = False,
    resume_from_checkpoint: str | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    **fields: Any,
) -> Run:
    """Remove the influence of ``target`` from ``model``, keeping the rest.

    Args:
        model: a diffusers pipeline, its directory, or a run directory; the model given is not changed.
        target: ``Class(7)``, ``Samples("list.txt")``, their text form, or several of them.
        data: where forget and retain samples come from; by default what a run directory says it was trained on.
        method: a method object, or its name with its default fields.
        training, fields: the loop's settings, as a whole or one by one (``max_train_steps=...``).
        dry_run: check everything and return the plan in ``.record`` without training or writing.

    Raises:
        BadInput: anything that cannot be done as asked; nothing has been written then.
        StoppedShort: the losses became non-finite. Interrupted: SIGINT; the state is saved.
    """
    config = with_fields(training, ERASE_DEFAULTS, fields)
    chosen: GradientMethod = METHODS[method]() if isinstance(method, str) else method
    wanted = parsed_targets(target)
    adapted, source, hashes = load_model(model)
    images = load_data(data, source)
    check_fit(adapted, images)
    check_target_kinds(wanted, adapted.family)
    split = targets.split(wanted, images)
    adapted.conditions = replace(adapted.conditions, excluded=split.classes)
    _check_needs(chosen, adapted)
    chosen = with_what_stops_need(chosen, config)
    name = _name_of(chosen)
    record = new_record(
        "erase",
        config,
        target=[str(t) for t in wanted],
        method={"name": name, "fields": _jsonable(asdict(chosen)), "paper": chosen.PAPER},  # type: ignore[call-overload]
        data={"spec": images.spec, "sha256": images.fingerprint(), "n": len(split.forget) + len(split.retain)},
        base_model={"source": str(source) if source else None, "sha256": hashes},
        plan={
            "forget_samples": len(split.forget),
            "retain_samples": len(split.retain),
            "forward_equivalents_per_step": chosen.forward_equivalents(),
        },
    )
    place = RunDirectory(Path(output_dir)) if output_dir is not None else None
    if place is not None:
        place.claim(overwrite=overwrite, resume=resume_from_checkpoint is not None)
    if dry_run:
        return Run(adapted, [], {**record, "status": "planned"})
    checkpoint = resumed(place, record, resume_from_checkpoint) if place is not None else None
    processes = Processes.start(report_to=config.report_to, directory=place.path if place else None)
    pairs = Pairs(
        images,
        split.retain,
        split.forget,
        batch_size=config.train_batch_size * config.gradient_accumulation_steps,
        seed=config.seed,
        device=processes.device,
        rank=processes.rank,
        world=processes.world,
    )
    session = start(adapted, chosen, pairs, config, processes=processes, checkpoint=checkpoint)
    if place is not None and processes.is_main:
        place.open(record, fresh=checkpoint is None)
    return complete(session, record, place, title=f"{name} {listing(wanted)}", quiet=quiet)


def parsed_targets(target: targets.Target | str | Sequence[targets.Target | str]) -> list[targets.Target]:
    """One target or several, as objects or text -> a list of objects. Raises BadInput for none."""
    several = [target] if isinstance(target, (str, targets.Class, targets.Samples, targets.Concept)) else list(target)
    if not several:
        raise BadInput("no target given; name at least one, such as class:7")
    return [targets.parse(t) if isinstance(t, str) else t for t in several]


def load_model(model: Any) -> tuple[Model, Path | None, dict[str, str] | None]:
    """A model that may be changed, the path it came from (if any) and the hashes of its weight files."""
    if isinstance(model, (str, Path)):
        directory = families.locate(model)
        return families.load(directory), directory, weight_hashes(directory)
    if hasattr(model, "directory") and hasattr(model, "record") and hasattr(model, "model"):  # a Run
        return load_model(model.directory) if model.directory else load_model(model.pipeline)
    return families.adopt(model), None, None


def load_data(data: ImageData | str | None, source: Path | None) -> ImageData:
    """The data given, or that which the model's own run.json names. Raises BadInput where neither is there."""
    if isinstance(data, ImageData):
        return data
    if data is None:
        try:
            data = read_run(source or "")[1]["data"]["spec"]
        except (BadInput, KeyError):
            raise BadInput("no data given, and the model has no run.json that names its data; give --data") from None
    return sources.load(str(data))


def check_fit(model: Model, data: ImageData) -> None:
    """Raise BadInput unless the model takes these images and labels."""
    check_images(model, data.image_shape)
    classes = model.conditions.num_classes
    if classes and data.labels is None:
        raise BadInput(f"the model is asked by class label, and {data.spec} has no labels")
    if classes and data.labels is not None and int(data.labels.max()) >= classes:
        raise BadInput(
            f"{data.spec} has labels up to {int(data.labels.max())}, the model's classes are 0 to {classes - 1}"
        )


def check_target_kinds(wanted: Sequence[targets.Target], family: str) -> None:
    """Raise BadInput for a kind of target that the family cannot take."""
    allowed = families.FAMILIES[family].targets
    for target in wanted:
        if target.kind not in allowed:
            raise BadInput(f"target {target}: family {family} takes {listing(f'{k}:...' for k in allowed)} only")


def _check_needs(method: GradientMethod, model: Model) -> None:
    name, needs, conditions = _name_of(method), method.needs, model.conditions
    if needs.classes and len(conditions.classes()) < 2 - bool(conditions.excluded):
        raise BadInput(
            f"method {name} relabels forget samples to another class, and this model has none; "
            "use --method.forget_target noise"
        )
    if needs.null_condition and conditions.num_classes and conditions.null_label is None:
        raise BadInput(f"method {name} needs a null condition, and this model has none; use another forget_target")


def with_what_stops_need(method: GradientMethod, config: TrainingConfig) -> GradientMethod:
    """The method, measuring what the stopping rules of ``config`` look at. Raises BadInput if it cannot."""
    name = _name_of(method)
    if config.retain_budget is not None and not method.needs.retain_set:
        raise BadInput(f"retain_budget cannot be kept: method {name} never looks at the retain set")
    if config.slack_tolerance is None:
        return method
    if not hasattr(method, "track_slack"):
        raise BadInput(f"slack_tolerance cannot be checked: method {name} has no forget target whose floor is known")
    tracking: GradientMethod = replace(method, track_slack=True)  # type: ignore[type-var]
    return tracking


def _name_of(method: GradientMethod) -> str:
    for name in METHODS:
        if METHODS[name] is type(method):
            return name
    return type(method).__name__


def method_named(name: str, fields: dict[str, Any]) -> GradientMethod:
    """The method of that name with ``fields`` set. Raises BadInput for an unknown name or field."""
    kind = METHODS[name]
    allowed = [f.name for f in fields_of(kind)]
    for field in fields:
        if field not in allowed:
            raise unknown(f"field of method {name}", field, allowed)
    made: GradientMethod = kind(**fields)
    return made


def _jsonable(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
