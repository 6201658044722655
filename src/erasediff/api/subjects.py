"""The models of an audit: loaded, checked against each other, and the question that all of them are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from erasediff.api.directory import read_run
from erasediff.api.inputs import (
    asked_in_words,
    check_config,
    check_fit,
    check_target_kinds,
    forgotten_before,
    load_data,
    load_model,
    parsed_targets,
    still_there,
)
from erasediff.api.spoken import asked, is_spoken, sides, spoken
from erasediff.auditing.question import Question
from erasediff.auditing.result import ERASED
from erasediff.data import targets
from erasediff.data.images import ImageData
from erasediff.errors import BadInput, listing
from erasediff.families.base import AskedInWords, Model


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """The models of an audit, ``erased`` first, and what the erased one's run.json says."""

    models: dict[str, Model]
    weights: dict[str, dict[str, str]]
    images: ImageData
    targets: Sequence[Any]
    split: Any
    source: Path | None
    record: dict[str, Any] | None

    @classmethod
    def load(
        cls,
        model: Any,
        others: dict[str, Any],
        target: Any,
        data: ImageData | str | None,
        prompt_template: str | None = None,
        config: str | Path | None = None,
    ) -> Subjects:
        """Load and check everything. Raises BadInput for models that cannot be compared."""
        check_config([model, *others.values()], config)
        erased, source, hashes = load_model(model, config)
        record = _record_of(source)
        wanted = parsed_targets(target if target is not None else _recorded_target(record))
        if data is None and _names_no_data(record) and is_spoken(erased, wanted):
            return cls._in_words(erased, source, hashes, wanted, others, prompt_template, record, config)
        images = load_data(data, source, erased)
        if target is None:  # what was put together for the last target of several need not show the earlier ones
            wanted = still_there(wanted, images) or wanted
        models, weights = {ERASED: erased}, {ERASED: hashes}
        for name, other in others.items():
            models[name], _, weights[name] = load_model(other, config)
        recorded = ((record or {}).get("asked") or {}).get("prompt_template")
        template = prompt_template or recorded
        models = {name: asked_in_words(subject, images, template) for name, subject in models.items()}
        for name, subject in models.items():
            check_fit(subject, images)
            _check_alike(name, subject, erased)
        check_target_kinds(wanted, erased.family)
        split = targets.split(wanted, images, still_there(forgotten_before(source, besides=wanted), images))
        for subject in models.values():
            subject.denoiser.to("cuda" if torch.cuda.is_available() else "cpu")
        made = {"models": models, "weights": weights, "images": images, "targets": wanted}
        return cls(**made, split=split, source=source, record=record)  # type: ignore[arg-type]

    @classmethod
    def _in_words(
        cls,
        erased: Model,
        source: Path | None,
        hashes: Any,
        wanted: Sequence[Any],
        others: dict[str, Any],
        template: str | None,
        record: dict[str, Any] | None,
        config: str | Path | None,
    ) -> Subjects:
        """Models that are asked for a concept, with no image of it."""
        images = spoken(erased, wanted, template)
        loaded = {ERASED: (erased, source, hashes)}
        loaded |= {name: load_model(other, config) for name, other in others.items()}
        models = {name: asked(model, images) for name, (model, _, _) in loaded.items()}
        for name, subject in models.items():
            _check_alike(name, subject, models[ERASED])
            subject.denoiser.to("cuda" if torch.cuda.is_available() else "cpu")
        weights = {name: found for name, (_, _, found) in loaded.items()}
        made = {"models": models, "weights": weights, "images": images, "targets": wanted}
        return cls(**made, split=sides(wanted, images), source=source, record=record)  # type: ignore[arg-type]

    @property
    def target(self) -> str:
        return listing(self.targets)

    @property
    def texts(self) -> tuple[str, ...] | None:
        """What the models are asked with for each class of the data, if they are asked in words."""
        erased = self.models[ERASED]
        return erased.class_names if isinstance(erased, AskedInWords) else None

    def question(self, **asked: Any) -> Question:
        """What is asked of all of them."""
        split = self.split
        classes = split.classes if self.models[ERASED].conditions.num_classes else ()
        return Question(
            target=self.target,
            data=self.images,
            forget=split.forget,
            retain=split.retain,
            classes=classes,
            gone=split.gone,
            **asked,
        )


def _names_no_data(record: dict[str, Any] | None) -> bool:
    return not ((record or {}).get("data") or {}).get("spec")


def _record_of(source: Path | None) -> dict[str, Any] | None:
    try:
        return read_run(source)[1] if source is not None else None
    except BadInput:
        return None


def _recorded_target(record: dict[str, Any] | None) -> list[str]:
    if not record or not record.get("target"):
        raise BadInput("no target given, and the model has no run.json that names one; give --target")
    return [str(t) for t in [*record["target"], *record.get("gone", [])]]


def _check_alike(name: str, subject: Model, erased: Model) -> None:
    if subject.family != erased.family:
        raise BadInput(f"the {name} model is of family {subject.family}, the erased model of {erased.family}")
    theirs, ours = subject.denoiser.state_dict(), erased.denoiser.state_dict()
    if {k: v.shape for k, v in theirs.items()} != {k: v.shape for k, v in ours.items()}:
        raise BadInput(f"the {name} model has other weights (names or shapes) than the erased model: not comparable")
