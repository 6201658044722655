"""Which weights a run trains, and what it leaves of them in its directory: a whole model, or a LoRA and its base."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from erasediff.api.directory import RunDirectory
from erasediff.data.targets import Class, Target
from erasediff.families import FAMILIES, lora
from erasediff.families.base import Model
from erasediff.families.lora import Lora
from erasediff.files import weight_hashes, write_atomic, write_json
from erasediff.methods.base import Method
from erasediff.report.card import model_card
from erasediff.training.config import ERASE_DEFAULTS, TrainingConfig
from erasediff.training.lora import planned
from erasediff.training.parameters import named


def trained_weights(
    model: Model,
    config: TrainingConfig,
    source: Path | None,
    hashes: dict[str, str] | None,
    named_as: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What run.json says of the base model and of the LoRA, where one is trained; see :func:`base_entry`.

    Raises BadInput where the weights that ``config`` names are not there, or do not take a LoRA of its rank.
    """
    if config.rank is None:
        named(model.denoiser, config.decided().parameters)
        return base_entry(source, hashes, named_as)
    # The base is read again with every use of the LoRA, from wherever that is.
    return {**base_entry(source and source.absolute(), hashes, named_as), "lora": planned(model.denoiser, config)}


def steps_of(
    family: str, given: Mapping[str, Any], wanted: Iterable[Target], method: Method | type[Method]
) -> dict[str, Any]:
    """The steps that suit a family, where ``given`` does not say: Adam's learning rate for its whole weights (for a
    LoRA on a large model ten times that, as in diffusers' scripts); and where whole classes are among the targets its
    decays, as many steps for each of them as for one, and how few forget samples ``method`` can do with."""
    kind = FAMILIES[family]
    rate, made = kind.learning_rate, dict[str, Any]()
    if given.get("rank") is not None:
        rate = max(rate, min(10 * rate, 1e-3))
    first, second = TrainingConfig.adam_beta1, TrainingConfig.adam_beta2
    if kind.class_betas is not None and (classes := sum(isinstance(t, Class) for t in wanted)):
        first, second = kind.class_betas
        made["max_train_steps"] = classes * ERASE_DEFAULTS.max_train_steps
        if (share := getattr(method, "FORGET_SHARE", 1.0)) != 1.0:
            batch = given.get("train_batch_size", TrainingConfig.train_batch_size)
            made["forget_batch_size"] = max(1, round(share * batch))
    return {**made, "learning_rate": rate, "adam_beta1": first, "adam_beta2": second, **given}


def base_entry(
    source: Path | None, hashes: dict[str, str] | None, named_as: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What run.json says of the base model; ``named_as``: see :func:`erasediff.api.inputs.origin`."""
    return {"base_model": {"source": str(source) if source else None, "sha256": hashes, **(named_as or {})}}


def keep(model: Model, adapters: Lora | None, record: dict[str, Any], place: RunDirectory) -> dict[str, Any]:
    """Write model/ or lora/, run.json and README.md below ``place``; returns what run.json then says.

    A LoRA whose base came from no path is written with model/ beside it, with which it is merged.
    """
    source = (record.get("base_model") or {}).get("source")
    if adapters is not None:
        lora.write(adapters, model.resting(), place.lora)
        said = {"base": os.path.relpath(source, place.path)} if source else {}
        record = {**record, "lora": {**record["lora"], **said}}
    if adapters is None or not source:
        model.save(place.model)
    record = {**record, "weights": weight_hashes(place.output)}
    write_json(place.record, record)
    write_atomic(place.card, model_card(record, None))
    return record
