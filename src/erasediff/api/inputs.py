"""What a user hands to erase and audit: targets, models and data, made into objects and checked against each other."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from erasediff import families
from erasediff.api.directory import read_run
from erasediff.data import sources, targets
from erasediff.data.assembled import SCHEME
from erasediff.data.folders import fitted
from erasediff.data.images import ImageData
from erasediff.errors import BadInput, listing
from erasediff.families import hub
from erasediff.families.base import AnySize, AskedInWords, Model, check_images

PLAIN = "{}"  # the prompt template that says a class's name or caption as it is


def parsed_targets(target: targets.Target | str | Sequence[targets.Target | str]) -> list[targets.Target]:
    """One target or several, as objects or text -> a list of objects. Raises BadInput for none."""
    several = [target] if isinstance(target, (str, targets.Class, targets.Samples, targets.Concept)) else list(target)
    if not several:
        raise BadInput("no target given; name at least one, such as class:7")
    return [targets.parse(t) if isinstance(t, str) else t for t in several]


def load_model(model: Any, config: str | Path | None = None) -> tuple[Model, Path | None, dict[str, str] | None]:
    """A model that may be changed, the path it came from (if any) and the hashes of its weight files.

    ``config``: what says how the model in a single file is built; other models say so themselves.
    """
    if isinstance(model, (str, Path)):
        directory = families.locate(model)
        return families.load(directory, config), directory, families.hashes(directory, config)
    if hasattr(model, "directory") and hasattr(model, "record") and hasattr(model, "model"):  # a Run
        return load_model(model.directory) if model.directory else load_model(model.pipeline)
    return families.adopt(model), None, None


def check_config(models: Iterable[Any], config: str | Path | None) -> None:
    """Raise BadInput for a ``config`` where none of ``models`` is a single file that it could be for."""
    paths = [Path(m) for m in models if isinstance(m, (str, Path))]
    if config is None or any(p.is_file() or p.suffix.lower() in families.ONE_FILE for p in paths):
        return
    raise BadInput(
        f"model_config {config} says how the model in a single file is built, and no model that was given is one; "
        "leave it out"
    )


def origin(model: Any, found: Path | None, config: str | Path | None) -> dict[str, Any]:
    """What else run.json says of where a model came from: its ``id`` and ``revision`` on the Hub, or its ``config``."""
    if found is None or not isinstance(model, (str, Path)):
        return {}
    if hub.is_id(model):
        return hub.named(str(model), found)
    return {"config": str(config if hub.is_id(config) else Path(config).absolute())} if config is not None else {}


def asked_in_words(model: Model, data: ImageData, template: str | None, anchor: str | None = None) -> Model:
    """``model``, its classes being the prompts that ``template`` makes of the data's class names or captions.

    A model that is asked by class number stays as it is, and its anchor is a class, ``class:3``; one that is bound to
    no size takes that of the data. Raises BadInput for a template without its one ``{}``.
    """
    if isinstance(model, AnySize):
        model = model.with_size(*data.image_shape[1:])
    if not isinstance(model, AskedInWords):
        parsed = targets.parse(anchor) if anchor is not None and anchor.startswith("class:") else None
        chosen = parsed if isinstance(parsed, targets.Class) else None
        if template is not None or (anchor is not None and chosen is None):
            raise BadInput(
                f"family {model.family} is asked by class number, not in words; leave out prompt_template, and give "
                "a class as the anchor (class:NAME), or none"
            )
        if chosen is not None:
            model.conditions = replace(model.conditions, anchor=_anchor_class(model, data, chosen))
        return model
    check_template(template)
    names = data.class_names if data.labels is not None else ()
    prompts = [(template or PLAIN).replace(PLAIN, name) for name in names]
    _check_distinct(prompts, data)
    return model.with_prompts([p for p in prompts if p], anchor=anchor)


def _check_distinct(prompts: Sequence[str], data: ImageData) -> None:
    """Raise BadInput for classes that are asked in the same words, or in none: labels would mean other prompts.

    The null prompt may be the last, where it is the null condition.
    """
    twice = next((p for row, p in enumerate(prompts) if p in prompts[:row]), None)
    if twice is not None:
        raise BadInput(f"two classes of {data.spec} are asked alike, {twice!r}; give every class a name of its own")
    if "" in prompts[:-1]:
        raise BadInput(f"class {list(prompts).index('')} of {data.spec} has no name to be asked by; name it")


def check_template(template: str | None) -> None:
    """Raise BadInput for a template without its one ``{}``."""
    if template is not None and template.count(PLAIN) != 1:
        raise BadInput(f"prompt_template {template!r} needs {PLAIN} once, where the class or caption goes")


def _anchor_class(model: Model, data: ImageData, chosen: targets.Class) -> int:
    """The label of a class that is to come in the target's place. Raises BadInput where the model has none."""
    if not model.conditions.num_classes:
        raise BadInput(f"anchor {chosen}: the model is unconditional and has no classes; leave it out")
    return chosen.number(data.class_names)


def words(model: Model, template: str | None, anchor: str | None) -> dict[str, Any]:
    """What run.json records of how a model was asked in words, and of the anchor where there is one."""
    if isinstance(model, AskedInWords):
        return {"asked": {"prompt_template": template or PLAIN, "anchor": anchor}}
    return {} if anchor is None else {"asked": {"anchor": anchor}}


def load_data(data: ImageData | str | None, source: Path | None, model: Model | None = None) -> ImageData:
    """The data given, or that which the model's own run.json names. Raises BadInput where neither is there.

    A folder's images are brought to the size of a ``model`` that is asked in words, with a warning: such models draw
    one size, and photographs have any.
    """
    if isinstance(data, ImageData):
        return data
    if data is None:
        try:
            directory, record = read_run(source)
            data = str(record["data"]["spec"])
        except (BadInput, KeyError):
            raise BadInput("no data given, and the model has no run.json that names its data; give --data") from None
        if data.startswith(SCHEME):  # below the run, wherever that has gone since
            data = f"{SCHEME}{directory.generated}"
    if not isinstance(model, AskedInWords):
        return sources.load(str(data))
    found, notes = fitted(str(data), model.image_shape)
    for note in notes:
        warnings.warn(note, stacklevel=3)
    return found


def forgotten_before(source: Path | None, *, besides: Sequence[targets.Target]) -> list[targets.Target]:
    """The targets that the model from ``source`` was made without, or has been made to forget: they stay gone."""
    try:
        record = read_run(source)[1]
    except BadInput:
        return []
    named = dict.fromkeys([*(record.get("target") or []), *(record.get("gone") or [])])
    return [targets.parse(text) for text in named if text not in {str(t) for t in besides}]


def still_there(gone: Sequence[targets.Target], data: ImageData) -> list[targets.Target]:
    """Those of ``gone`` that can be found in ``data``: what was put together for a later target may show none of them.

    Of data of other origin only concepts may be absent: no caption need say them.
    """
    return [t for t in gone if _is_there(t, data)]


def _is_there(target: targets.Target, data: ImageData) -> bool:
    if str(target) in data.meant:
        return True
    if isinstance(target, targets.Concept):
        return any(target.said_by(name) for name in data.class_names)
    if not data.spec.startswith(SCHEME):
        return True
    try:
        return bool(target.members(data).any())
    except BadInput:
        return False


def check_fit(model: Model, data: ImageData) -> None:
    """Raise BadInput unless the model takes these images and labels."""
    check_images(model, data.image_shape)
    classes, null = model.conditions.num_classes, model.conditions.null_label
    if classes and data.labels is None:
        raise BadInput(f"the model is asked by class label, and {data.spec} has no labels")
    if not classes or data.labels is None:
        return
    # Images put together for a model asked in words may be of the null prompt.
    labels = data.labels[data.labels != null] if data.spec.startswith(SCHEME) else data.labels
    if len(labels) and int(labels.max()) >= classes:
        raise BadInput(f"{data.spec} has labels up to {int(labels.max())}, the model's classes are 0 to {classes - 1}")


def check_target_kinds(wanted: Sequence[targets.Target], family: str) -> None:
    """Raise BadInput for a kind of target that the family cannot take."""
    allowed = families.FAMILIES[family].targets
    for target in wanted:
        if target.kind not in allowed:
            raise BadInput(f"target {target}: family {family} takes {listing(f'{k}:...' for k in allowed)} only")
