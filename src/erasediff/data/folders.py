"""Folders of a user's own images, of any size: brought to the size that a model takes, with their captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from erasediff.data import sources
from erasediff.data.images import ImageData
from erasediff.data.metadata import METADATA, rows
from erasediff.data.sources import IMAGE_SUFFIXES, UNREADABLE
from erasediff.errors import BadInput, listing

MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, kw_only=True)
class Folder:
    """``images``: uint8 [N, H, W, C]; ``captions``, ``names``: [N]; what was done to them, and what was left out."""

    root: Path
    images: np.ndarray
    captions: tuple[str | None, ...]
    names: tuple[str, ...]
    fitting: Fitting
    skipped: tuple[str, ...]

    def notes(self) -> list[str]:
        """What was done to the images, a line each."""
        skipped, every = len(self.skipped), len(self.skipped) + len(self.names)
        where = f"{skipped} of {every} images in {self.root}"
        left = [f"{where} could not be read and are left out, first {self.skipped[0]}"] if skipped else []
        return [*self.fitting.notes(self.root), *left]


@dataclass
class Fitting:
    """Reads images into one shape [C, H, W]: turned as their EXIF says, resized and centre-cropped; counts them."""

    shape: tuple[int, ...]
    resized: int = 0
    read: int = 0

    def __call__(self, path: Path) -> np.ndarray:
        """The image uint8 [H, W, C]. Raises BadInput for one that is missing or cannot be read."""
        image, other = _read(path, self.shape)
        self.resized, self.read = self.resized + other, self.read + 1
        return image

    def notes(self, root: Path | str) -> list[str]:
        """What was done, in one line, if anything."""
        if not self.resized:
            return []
        height, width = self.shape[1:]
        return [f"{self.resized} of {self.read} images in {root} were resized and centre-cropped to {height} x {width}"]


def fitted(spec: str, shape: tuple[int, ...]) -> tuple[ImageData, list[str]]:
    """DATA, the images of a folder brought to ``shape``; and what is to be said of it."""
    fitting = Fitting(shape)
    return sources.load(spec, fitting), fitting.notes(spec)


def read_folder(
    root: str | Path,
    shape: tuple[int, ...],
    *,
    skip_unreadable: bool = False,
    only: Sequence[str] | None = None,
) -> Folder:
    """The images in ``root``, brought to ``shape`` [C, H, W]: resized and centre-cropped, turned as their EXIF says.

    All images below ``root``, or those that ``metadata.jsonl`` names (``file_name``, and ``text`` or ``label``, the
    caption), or ``only`` these files. Raises BadInput for a folder without an image, and for the first that is missing
    or unreadable, unless ``skip_unreadable``.
    """
    place = Path(root)
    if not place.is_dir():
        raise BadInput(f"image folder {place} does not exist; give a folder of images")
    if only is not None:
        rows: list[tuple[str, str | None]] = [(name, None) for name in only]
    else:
        rows = _captioned(place) if (place / METADATA).is_file() else _found(place)
    fitting = Fitting(shape)
    images, kept, skipped = [], [], []
    for name, caption in rows:
        try:
            images.append(fitting(place / name))
        except BadInput as error:
            if not skip_unreadable:
                raise BadInput(f"{error}; remove it, or give --skip_unreadable") from None
            skipped.append(name)
            continue
        kept.append((name, caption))
    if not kept:
        raise BadInput(f"{place} holds no readable image: {len(skipped)} cannot be read, first {skipped[0]}")
    return Folder(
        root=place,
        images=np.stack(images),
        captions=tuple(caption for _, caption in kept),
        names=tuple(name for name, _ in kept),
        fitting=fitting,
        skipped=tuple(skipped),
    )


def _found(root: Path) -> list[tuple[str, str | None]]:
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise BadInput(f"{root} holds no image; readable are: {listing(sorted(IMAGE_SUFFIXES))}")
    return [(str(p.relative_to(root)), None) for p in files]


def _captioned(root: Path) -> list[tuple[str, str | None]]:
    def said(row: dict[str, Any]) -> str | None:
        text = row.get("text") if row.get("text") is not None else row.get("label")
        return None if text is None else str(text)

    return [(row["file_name"], said(row)) for row in rows(root)]


def _read(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """The image uint8 [H, W, C], and whether it had another size. Raises BadInput."""
    channels, height, width = shape
    if channels not in MODES:
        raise BadInput(f"images from folders have {listing(MODES)} channels, but this model takes {channels}")
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert(MODES[channels])
    except FileNotFoundError:
        raise BadInput(f"image {path} does not exist") from None
    except UNREADABLE as error:
        raise BadInput(f"image {path} cannot be read: {' '.join(str(error).split())}") from None
    other = image.size != (width, height)
    if other:
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(height, width, channels), other


def captioned(folder: Folder, prompts: Sequence[str]) -> tuple[str, ...]:
    """The caption of each image; those without one are given ``prompts``, in as many equal stretches."""
    silent = [i for i, caption in enumerate(folder.captions) if caption is None]
    given = {row: prompts[place * len(prompts) // len(silent)] for place, row in enumerate(silent)}
    return tuple(given[i] if caption is None else caption for i, caption in enumerate(folder.captions))


def share(folder: Folder, mine: Callable[[str], bool], anyone: Callable[[str], bool], text: str) -> Folder:
    """The images of a folder that several concepts share whose captions say one of them, ``text``.

    ``mine``, ``anyone``: whether a caption says it, and whether it says any of them. Raises BadInput for an image that
    says none, and where no image says ``text``.
    """
    lost = [n for n, c in zip(folder.names, folder.captions, strict=True) if c is None or not anyone(c)]
    if lost:
        raise BadInput(
            f"{folder.root} serves several concepts, and the caption of {lost[0]} says none of them; give a folder for "
            f"each, or captions in {METADATA}"
        )
    rows = [i for i, caption in enumerate(folder.captions) if caption is not None and mine(caption)]
    if not rows:
        raise BadInput(f"{folder.root} serves several concepts, and no caption says {text!r}; give a folder for each")
    return replace(
        folder,
        images=folder.images[rows],
        captions=tuple(folder.captions[i] for i in rows),
        names=tuple(folder.names[i] for i in rows),
    )
