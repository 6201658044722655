"""What ``train`` begins with: a new model or one that is trained further, and the images as it is asked for them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from erasediff.api.inputs import PLAIN, check_config, check_fit, load_model, origin
from erasediff.api.weights import base_entry
from erasediff.data import captions
from erasediff.data.images import ImageData
from erasediff.errors import BadInput
from erasediff.families.architecture import Architecture
from erasediff.families.base import AskedInWords, Model
from erasediff.randomness import derived_seed


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What was asked for. ``source``: a model to be trained further, or ``None`` for a new one.

    ``config``: what says how ``source`` is built where it is a single file.
    """

    data: ImageData
    source: Any
    column: str | None
    templates: tuple[str, ...]
    architecture: Architecture | None
    config: str | Path | None = None

    @property
    def in_words(self) -> bool:
        return self.column is not None or bool(self.templates)


def begin(asked: Beginning, seed: int) -> tuple[Model, ImageData, ImageData, dict[str, Any]]:
    """The model, the data as targets are looked for in it, the data as the model is asked, and entries of the record.

    Raises BadInput for data and models that do not fit, and for what one excludes of the other.
    """
    check_config([asked.source], asked.config)
    if asked.source is not None:
        return _further(asked)
    named, images = _worded(asked)
    architecture = asked.architecture or Architecture()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, 0, "initial weights"))
        if asked.in_words:
            model = architecture.build_for_captions(images.image_shape, images.class_names, seed=seed)
        else:
            model = architecture.build(images.image_shape, images.class_names)
    entries = {"architecture": architecture.recorded(images.image_shape, text=asked.in_words)}
    return model, named, images, {**entries, **(_recorded(asked, images) if asked.in_words else {})}


def _further(asked: Beginning) -> tuple[Model, ImageData, ImageData, dict[str, Any]]:
    """A model that is there: its own architecture, and words only where it is asked in words."""
    if asked.architecture is not None:
        raise BadInput(
            "a model that is trained further keeps its architecture; leave out the flags of the model (such as "
            "--block_out_channels), or pretrained_model_name_or_path"
        )
    model, source, hashes = load_model(asked.source, asked.config)
    entries = base_entry(source, hashes, origin(asked.source, source, asked.config))
    if not isinstance(model, AskedInWords):
        if asked.in_words:
            raise BadInput(
                f"family {model.family} is asked by class number, not in words; leave out caption_column and "
                "caption_template, or name a text-to-image model"
            )
        check_fit(model, asked.data)
        return model, asked.data, asked.data, entries
    named, images = _worded(asked)
    images = images if asked.templates else captions.in_templates(images, [PLAIN])
    model = model.with_prompts(images.class_names)
    check_fit(model, images)
    return model, named, images, {**entries, **_recorded(asked, images)}


def _worded(asked: Beginning) -> tuple[ImageData, ImageData]:
    """The data with what its captions are made of as classes, and with the captions themselves."""
    named = asked.data if asked.column is None else captions.from_column(asked.data, asked.column)
    return named, captions.in_templates(named, asked.templates) if asked.templates else named


def _recorded(asked: Beginning, images: ImageData) -> dict[str, Any]:
    said = hashlib.sha256("\n".join(images.class_names).encode()).hexdigest()
    return {
        "asked": {
            "caption_column": asked.column,
            "caption_template": list(asked.templates) or [PLAIN],
            "captions": len(images.class_names),
            "captions_sha256": said,
        }
    }
