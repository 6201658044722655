"""Data put together of several origins: DATA, folders of own images, sets that the model draws. One prompt, one class.

Labels, names and what is held out are known before anything is drawn, so that everything can be checked first. Of own
and drawn images, as of all data, every fifth is held out: judges are tested on them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erasediff.data import generated
from erasediff.data.folders import Folder, fitted, read_folder
from erasediff.data.generated import Recipe
from erasediff.data.images import EVERY, ImageData, hold_out
from erasediff.errors import BadInput
from erasediff.files import read_json, write_json

SCHEMA = 1
MANIFEST = "data.json"
SCHEME = "generated:"
NULL = ""  # the prompt of images that were asked for by nothing
PLACE = "{}"  # in a template, where the class or caption goes


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of one origin. ``prompts``, ``names``, ``held_out``: of each row [n]; ``images``: uint8 [n, C, H, W].

    ``classes``: prompts that are classes in this order whether there is a row of them or not. ``entry``: how to get
    the part again. ``recipe``: what is to be drawn; ``images`` is None until it is.
    """

    entry: Mapping[str, Any]
    prompts: tuple[str, ...]
    names: tuple[str, ...]
    held_out: Tensor
    images: Tensor | None
    classes: tuple[str, ...] = ()
    recipe: Recipe | None = None


def data_part(data: ImageData, template: str) -> Part:
    """All of DATA, its classes said as ``template`` says. Raises BadInput for data without labels."""
    if data.labels is None:
        raise BadInput(f"{data.spec} has no class names or captions, by which its images could be asked for")
    said = tuple(template.replace(PLACE, name) for name in data.class_names)
    return Part(
        entry={"kind": "data", "source": data.spec, "template": template},
        prompts=tuple(said[label] for label in data.labels.tolist()),
        names=data.names,
        held_out=data.held_out,
        images=data.images,
        classes=said,
    )


def folder_part(folder: Folder, prompts: Sequence[str]) -> Part:
    """A folder of own images, with the prompt of each."""
    entry = {"kind": "folder", "source": str(folder.root), "names": list(folder.names), "prompts": list(prompts)}
    images = torch.from_numpy(folder.images.transpose(0, 3, 1, 2).copy())
    held_out = hold_out(len(images), None)
    return Part(entry=entry, prompts=tuple(prompts), names=folder.names, held_out=held_out, images=images)


def drawn_part(recipe: Recipe, images: Tensor | None = None) -> Part:
    """A set of drawn images, there or still to be drawn."""
    rows = range(recipe.num_images)
    return Part(
        entry={"kind": "drawn", "source": recipe.name},
        prompts=tuple(recipe.prompt(r) for r in rows),
        names=tuple(f"{recipe.name}/{generated.file_name(r)}" for r in rows),
        held_out=_spread(recipe.num_images, len(recipe.prompts)),
        images=images,
        recipe=recipe,
    )


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """Parts, and what targets mean: target as text -> prompts. ``anchors`` are classes too, with images or without."""

    parts: tuple[Part, ...]
    meaning: Mapping[str, tuple[str, ...]]
    anchors: tuple[str, ...]
    image_shape: tuple[int, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every class: those of DATA first and in their order, so that numbers stay; the null prompt last."""
        listed = [p for part in self.parts for p in part.classes]
        listed += [p for part in self.parts for p in part.prompts]
        return tuple(sorted(dict.fromkeys([*listed, *self.anchors]), key=lambda prompt: prompt == NULL))

    def data(self, spec: str) -> ImageData:
        """All rows. Where something is still to be drawn, images of no memory stand for all of them."""
        classes = {prompt: number for number, prompt in enumerate(self.prompts)}
        prompts = [p for part in self.parts for p in part.prompts]
        there = [part.images for part in self.parts if part.images is not None]
        empty = torch.zeros((), dtype=torch.uint8).expand(len(prompts), *self.image_shape)
        return ImageData(
            spec=spec,
            images=torch.cat(there) if len(there) == len(self.parts) else empty,
            labels=torch.tensor([classes[p] for p in prompts]),
            class_names=tuple(classes),
            names=tuple(name for part in self.parts for name in part.names),
            held_out=torch.cat([part.held_out for part in self.parts]),
            meant={text: tuple(sorted(classes[p] for p in said)) for text, said in self.meaning.items()},
        )

    def read(self, folder: Path) -> Assembled:
        """With the images of the sets below ``folder``."""
        parts = [
            p if p.recipe is None else replace(p, images=generated.read(folder / p.recipe.name, p.recipe))
            for p in self.parts
        ]
        return replace(self, parts=tuple(parts))

    def fingerprint(self) -> str:
        """SHA-256 of everything that the rows are a function of: own images, recipes, prompts, what targets mean."""
        digest = hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode())
        for part in self.parts:
            digest.update(part.recipe.key.encode() if part.recipe else _bytes(part.images))
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``data.json``, by which :func:`load` puts the same together again."""
        write_json(folder / MANIFEST, {"schema": SCHEMA, **self._content()})

    def _content(self) -> dict[str, Any]:
        return {
            "image_shape": list(self.image_shape),
            "anchors": list(self.anchors),
            "meaning": {text: list(said) for text, said in self.meaning.items()},
            "parts": [dict(part.entry) for part in self.parts],
        }


def load(spec: str) -> ImageData:
    """``generated:DIR`` -> what was put together there. Raises BadInput where a part of it is gone."""
    folder = Path(spec.removeprefix(SCHEME))
    if not (folder / MANIFEST).is_file():
        raise BadInput(
            f"{spec}: {folder / MANIFEST} does not exist; the images drawn for that run were not kept, or were purged: "
            "give --data"
        )
    content = read_json(folder / MANIFEST)
    if content.get("schema") != SCHEMA:
        raise BadInput(f"{folder / MANIFEST} has schema {content.get('schema')!r}; this version reads {SCHEMA}")
    shape = tuple(content["image_shape"])
    parts = tuple(_READERS[entry["kind"]](entry, folder, shape) for entry in content["parts"])
    meaning = {text: tuple(said) for text, said in content["meaning"].items()}
    made = Assembled(parts=parts, meaning=meaning, anchors=tuple(content["anchors"]), image_shape=shape)
    return made.data(spec)


def _read_data(entry: dict[str, Any], folder: Path, shape: tuple[int, ...]) -> Part:  # noqa: ARG001
    return data_part(fitted(entry["source"], shape)[0], entry["template"])


def _read_folder(entry: dict[str, Any], folder: Path, shape: tuple[int, ...]) -> Part:  # noqa: ARG001
    found = read_folder(entry["source"], shape, only=entry["names"])
    return folder_part(found, entry["prompts"])


def _read_drawn(entry: dict[str, Any], folder: Path, shape: tuple[int, ...]) -> Part:  # noqa: ARG001
    recipe = generated.recipe_in(folder / entry["source"])
    return drawn_part(recipe, generated.read(folder / recipe.name, recipe))


def _spread(count: int, prompts: int) -> Tensor:
    """Every fifth image, taken from all prompts in turn; none of a prompt that has no other."""
    row = torch.arange(count)
    number, prompt = row // prompts, row % prompts
    of_prompt = torch.bincount(prompt, minlength=prompts)[prompt]
    return ((number + prompt) % EVERY == EVERY - 1) & (of_prompt > 1)


_READERS = {"data": _read_data, "folder": _read_folder, "drawn": _read_drawn}


def _bytes(images: Tensor | None) -> bytes:
    return b"" if images is None else images.numpy().tobytes()
