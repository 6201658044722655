"""Images that a model draws of prompts: what they are a function of, and their cache of plain files.

A set is a folder of PNG files with ``metadata.jsonl`` (file name, prompt, seed), readable as any folder of captioned
images, and ``set.json``: what it was drawn from, by which it is recognised. Who draws is not known here: a callable.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from erasediff.data.folders import MODES
from erasediff.data.metadata import METADATA
from erasediff.errors import BadInput, listing
from erasediff.files import read_json, writable, write_atomic, write_json
from erasediff.randomness import derived_seed

SCHEMA = 1
RECORD = "set.json"

Draw = Callable[[Sequence[str], Sequence[int]], Tensor]
"""Prompts [b] and seeds [b] -> images uint8 [b, C, H, W]; image i depends on prompt i and seed i."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How images are drawn where a model must show what a prompt means.

    Args:
        num_forget_images: images drawn of all prompts of what is to be forgotten together.
        num_retain_images: images drawn of all prompts of what is to be kept together.
        guidance_scale: classifier-free guidance of the images that are drawn; 1 for none.
        num_inference_steps: steps of the sampler for each of them.
        sample_batch_size: images drawn at once.
    """

    num_forget_images: int = 200
    num_retain_images: int = 200
    guidance_scale: float = 7.5
    num_inference_steps: int = 30
    sample_batch_size: int = 4

    def __post_init__(self) -> None:
        for name in ("num_forget_images", "num_retain_images", "num_inference_steps", "sample_batch_size"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.guidance_scale < 0:
            raise BadInput(f"guidance_scale must not be negative, got {self.guidance_scale}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that a set is a function of. Image i is of ``prompts[i % len(prompts)]``.

    ``name``: forget or retain; ``model``: identifies the weights that draw; ``image_shape``: [C, H, W].
    """

    name: str
    prompts: tuple[str, ...]
    num_images: int
    seed: int
    guidance_scale: float
    num_inference_steps: int
    image_shape: tuple[int, ...]
    model: str

    def __post_init__(self) -> None:
        if self.num_images < len(self.prompts):
            raise BadInput(
                f"num_{self.name}_images {self.num_images} is less than the {len(self.prompts)} prompts that images "
                f"are drawn of; give at least {len(self.prompts)}, or fewer prompts"
            )
        if self.image_shape[0] not in MODES:
            raise BadInput(f"images of {self.image_shape[0]} channels cannot be kept as PNG; {listing(MODES)} can")

    def content(self) -> dict[str, Any]:
        """As JSON has it."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @property
    def key(self) -> str:
        """SHA-256 of all of it: sets of one key hold the same images."""
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()

    def prompt(self, row: int) -> str:
        return self.prompts[row % len(self.prompts)]

    def seed_of(self, row: int) -> int:
        return derived_seed(self.seed, row, f"generated/{self.name}")


def file_name(row: int) -> str:
    """Of image ``row`` in its folder."""
    return f"{row:06}.png"


def prepare(folder: Path, recipe: Recipe, given: Path | None = None) -> None:
    """Make ``folder`` the place of this set: what another recipe left there goes, what this one left stays.

    ``given``: a folder that may hold the whole set already; it is copied then.
    """
    with writable(folder):
        if not _is_of(folder, recipe):
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        if given is not None and complete(given, recipe) and not complete(folder, recipe):
            for name in (*map(file_name, range(recipe.num_images)), METADATA, RECORD):
                shutil.copyfile(given / name, folder / name)
    if not (folder / RECORD).exists():
        write_json(folder / RECORD, {"schema": SCHEMA, "key": recipe.key, "complete": False, **recipe.content()})


def missing(folder: Path | None, recipe: Recipe) -> list[int]:
    """The rows that are still to be drawn; all where there is no folder of this recipe."""
    if folder is None or not _is_of(folder, recipe):
        return list(range(recipe.num_images))
    return [row for row in range(recipe.num_images) if not (folder / file_name(row)).is_file()]


def fill(folder: Path, recipe: Recipe, rows: Sequence[int], draw: Draw, *, batch: int) -> Iterator[int]:
    """Draw ``rows``, ``batch`` at a time, and keep each as a file; yields how many were added."""
    for first in range(0, len(rows), batch):
        some = rows[first : first + batch]
        images = draw([recipe.prompt(r) for r in some], [recipe.seed_of(r) for r in some])
        for row, image in zip(some, images, strict=True):
            write_atomic(folder / file_name(row), _png(image))
        yield len(some)


def finish(folder: Path, recipe: Recipe) -> None:
    """Write ``metadata.jsonl`` and enter in ``set.json`` that the set is whole, with the SHA-256 of its pixels."""
    if complete(folder, recipe):
        return
    rows = [
        {"file_name": file_name(r), "text": recipe.prompt(r), "seed": recipe.seed_of(r)}
        for r in range(recipe.num_images)
    ]
    write_atomic(folder / METADATA, "".join(json.dumps(row) + "\n" for row in rows))
    digest = hashlib.sha256(read(folder, recipe).numpy().tobytes()).hexdigest()
    record = {"schema": SCHEMA, "key": recipe.key, "complete": True, "images_sha256": digest, **recipe.content()}
    write_json(folder / RECORD, record)


def read(folder: Path, recipe: Recipe) -> Tensor:
    """The images of a set, uint8 [N, C, H, W]. Raises BadInput for one that is missing or broken."""
    channels, height, width = recipe.image_shape
    images = np.empty((recipe.num_images, height, width, channels), np.uint8)
    for row in range(recipe.num_images):
        path = folder / file_name(row)
        try:
            with Image.open(path) as image:
                images[row] = np.asarray(image).reshape(height, width, channels)
        except (OSError, ValueError, SyntaxError) as error:
            raise BadInput(f"drawn image {path} cannot be read ({error}); delete {folder} to draw it again") from None
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def complete(folder: Path, recipe: Recipe) -> bool:
    """Whether the whole set of this recipe is in ``folder``."""
    return _is_of(folder, recipe) and bool(read_json(folder / RECORD).get("complete")) and not missing(folder, recipe)


def recipe_in(folder: Path) -> Recipe:
    """The recipe of the set in ``folder``. Raises BadInput where there is none."""
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise BadInput(f"{folder / RECORD} is not the record of a set of drawn images")
    given = {name: record[name] for name in Recipe.__dataclass_fields__ if name in record}
    try:
        return Recipe(**{**given, "prompts": tuple(given["prompts"]), "image_shape": tuple(given["image_shape"])})
    except (KeyError, TypeError) as error:
        raise BadInput(f"{folder / RECORD} is not the record of a set of drawn images: {error}") from None


def _is_of(folder: Path, recipe: Recipe) -> bool:
    path = folder / RECORD
    return path.is_file() and read_json(path).get("key") == recipe.key


def _png(image: Tensor) -> bytes:
    pixels = image.permute(1, 2, 0).cpu().numpy()
    buffer = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def drawing_fields(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of ``given`` that are fields of :class:`Generation`, and the others."""
    own = Generation.__dataclass_fields__
    return {k: v for k, v in given.items() if k in own}, {k: v for k, v in given.items() if k not in own}
