"""What is to be forgotten, as a user says it: ``class:7``, ``samples:FILE``, ``concept:Van Gogh``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from erasediff.data.sources import IMAGE_SUFFIXES, ImageData
from erasediff.errors import BadInput, listing, nearest


@dataclass(frozen=True)
class Class:
    """Every sample of one class, by its number or its name."""

    label: int | str
    kind = "class"

    def __str__(self) -> str:
        return f"class:{self.label}"

    def number(self, class_names: Sequence[str]) -> int:
        """The class number among ``class_names``. Raises BadInput for a class that is not there."""
        text = str(self.label)
        if text in class_names:
            return list(class_names).index(text)
        if text.isdigit() and int(text) < len(class_names):
            return int(text)
        raise BadInput(f"there is no class {text!r}{nearest(text, class_names)}; classes: {listing(class_names)}")

    def members(self, data: ImageData) -> Tensor:
        """Mask [N] of the samples of this class."""
        if data.labels is None:
            raise BadInput(f"target {self} needs labels, and {data.spec} has none; use samples:FILE")
        return data.labels == self.number(data.class_names)


@dataclass(frozen=True)
class Samples:
    """Named samples: a file with one index or file name a line, or a directory whose file names are meant."""

    source: str
    kind = "samples"

    def __str__(self) -> str:
        return f"samples:{self.source}"

    def entries(self) -> list[str]:
        """The indices or file names that are listed. Raises BadInput for a missing or empty list."""
        path = Path(self.source)
        if path.is_dir():
            found = [p.name for p in sorted(path.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
        elif path.is_file():
            found = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        else:
            raise BadInput(f"target {self}: {path} does not exist; give a file with one index or file name a line")
        if not found:
            raise BadInput(f"target {self} names no sample")
        return found

    def members(self, data: ImageData) -> Tensor:
        """Mask [N] of the samples named."""
        place = {name: i for i, name in enumerate(data.names)}
        place |= {Path(name).name: i for name, i in place.items()}
        mask = torch.zeros(len(data), dtype=torch.bool)
        for entry in self.entries():
            index = int(entry) if entry.isdigit() and entry not in place else place.get(entry, -1)
            if not 0 <= index < len(data):
                raise BadInput(
                    f"target {self} names {entry!r}, which is not among the {len(data)} samples of {data.spec}"
                )
            mask[index] = True
        return mask


@dataclass(frozen=True)
class Concept:
    """Something a prompt can say: every sample whose class (its name or caption) says it. For models asked in words."""

    text: str
    kind = "concept"

    def __str__(self) -> str:
        return f"concept:{self.text}"

    def numbers(self, class_names: Sequence[str]) -> tuple[int, ...]:
        """The classes whose names hold the text as whole words, in any case. Raises BadInput where none does."""
        said = re.compile(rf"(?<!\w){re.escape(self.text.strip())}(?!\w)", re.IGNORECASE)
        found = tuple(c for c, name in enumerate(class_names) if said.search(name))
        if not found:
            raise BadInput(
                f"target {self}: no class or caption says {self.text!r}{nearest(self.text, class_names)}; "
                f"there are: {listing(class_names)}"
            )
        return found

    def members(self, data: ImageData) -> Tensor:
        """Mask [N] of the samples whose class says it."""
        if data.labels is None:
            raise BadInput(f"target {self} needs class names or captions, and {data.spec} has none; use samples:FILE")
        return torch.isin(data.labels, torch.tensor(self.numbers(data.class_names)))


Target = Class | Samples | Concept
KINDS: dict[str, Callable[[str], Target]] = {"class": Class, "samples": Samples, "concept": Concept}


def parse(text: str) -> Target:
    """``"class:7"`` -> ``Class("7")``. Raises BadInput for another form."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS or not rest.strip():
        forms = listing(f"{k}:..." for k in KINDS)
        raise BadInput(f"target {text!r} is not of the form {forms}{nearest(kind, KINDS)}")
    return KINDS[kind](rest.strip())


@dataclass(frozen=True)
class Split:
    """Indices of the forget set and of the retain set, and the classes that the forget set exhausts.

    ``gone``: the classes of targets that the model had to forget earlier: not asked about, and not retained either.
    """

    forget: Tensor
    retain: Tensor
    classes: tuple[int, ...]
    gone: tuple[int, ...] = ()

    @property
    def excluded(self) -> tuple[int, ...]:
        """Every class that is not retained."""
        return tuple(sorted({*self.classes, *self.gone}))


def split(targets: Sequence[Target], data: ImageData, gone: Sequence[Target] = ()) -> Split:
    """Divide the training part of ``data``; samples of ``gone`` belong to neither side.

    Raises BadInput if either side is empty.
    """
    chosen, left_out = _members(targets, data), _members(gone, data)
    training = ~data.held_out
    forget, retain = (chosen & training).nonzero()[:, 0], (~chosen & ~left_out & training).nonzero()[:, 0]
    named = listing(targets)
    if not len(forget):
        raise BadInput(f"target {named} leaves the forget set empty: no training sample of {data.spec} belongs to it")
    if not len(retain):
        rest = f" but what was forgotten before ({listing(gone)})" if gone else ""
        raise BadInput(
            f"target {named} is all of {data.spec}{rest}: the retain set is empty; forget less than everything"
        )
    return Split(forget, retain, _classes(targets, data), _classes(gone, data))


def _members(targets: Sequence[Target], data: ImageData) -> Tensor:
    chosen = torch.zeros(len(data), dtype=torch.bool)
    for target in targets:
        chosen |= target.members(data)
    return chosen


def _classes(targets: Sequence[Target], data: ImageData) -> tuple[int, ...]:
    numbers = {t.number(data.class_names) for t in targets if isinstance(t, Class)}
    said = {c for t in targets if isinstance(t, Concept) for c in t.numbers(data.class_names)}
    return tuple(sorted(numbers | said))
