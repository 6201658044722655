"""What is to be forgotten, as a user says it: ``class:7``, ``samples:FILE``, ``concept:Van Gogh``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from erasediff.data.images import ImageData
from erasediff.data.sources import IMAGE_SUFFIXES
from erasediff.errors import BadInput, listing, nearest
from erasediff.files import read_text


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

    def classes(self, data: ImageData) -> tuple[int, ...]:
        """Its number in ``data``, as a tuple of one."""
        return data.meant.get(str(self)) or (self.number(data.class_names),)

    def members(self, data: ImageData) -> Tensor:
        """Mask [N] of the samples of this class."""
        if data.labels is None:
            raise BadInput(f"target {self} needs labels, and {data.spec} has none; use samples:FILE")
        return torch.isin(data.labels, torch.tensor(self.classes(data)))


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
            found = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        else:
            raise BadInput(f"target {self}: {path} does not exist; give a file with one index or file name a line")
        if not found:
            raise BadInput(f"target {self} names no sample")
        return found

    def members(self, data: ImageData) -> Tensor:
        """Mask [N] of the samples named."""
        exact = {name: i for i, name in enumerate(data.names)}
        inside: dict[str, list[str]] = {}  # file name -> names that end in it
        for name in exact:
            inside.setdefault(Path(name).name, []).append(name)
        mask = torch.zeros(len(data), dtype=torch.bool)
        for entry in self.entries():
            meant = [entry] if entry in exact else inside.get(entry, [])
            if len(meant) > 1:
                raise BadInput(f"target {self} names {entry!r}, which may be {listing(sorted(meant))}; give it in full")
            index = exact[meant[0]] if meant else int(entry) if entry.isdigit() else -1
            if not 0 <= index < len(data):
                raise BadInput(
                    f"target {self} names {entry!r}, which is not among the {len(data)} samples of {data.spec}"
                )
            mask[index] = True
        return mask


@dataclass(frozen=True)
class Concept:
    """Something a prompt can say; for models asked in words.

    Without ``images`` and ``prompts`` it means every sample of the data whose class (its name or caption) says it, and
    where there is no data, images that the model draws of prompts with ``text`` in them.

    Args:
        text: the concept, ``Van Gogh``.
        anchor: what is to come in its place, ``a painting``.
        images: a folder of images that show it.
        prompts: prompts that mean it: a file with one a line, or a list. Captions of ``images`` that have none, or
            what the model draws where no images are given.

    Raises BadInput for an empty concept, and for one that is its own anchor.
    """

    text: str
    anchor: str | None = None
    images: str | Path | None = None
    prompts: str | Path | Sequence[str] | None = None
    kind = "concept"

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise BadInput("a concept is empty; say what is to be forgotten, such as concept:Van Gogh")
        if self.anchor is not None and not self.anchor.strip():
            raise BadInput(f"the anchor of {self} is empty; say what is to come in its place, or leave it out")
        if self.anchor is not None and _bare(self.anchor) == _bare(self.text):
            raise BadInput(f"the anchor of {self} is the concept itself ({self.anchor!r}); give something more general")
        if isinstance(self.prompts, Sequence) and not isinstance(self.prompts, str):
            object.__setattr__(self, "prompts", tuple(self.prompts))

    def __str__(self) -> str:
        return f"concept:{self.text}"

    @property
    def shown(self) -> bool:
        """Whether it comes with images or prompts of its own."""
        return self.images is not None or self.prompts is not None

    def said_by(self, prompt: str) -> bool:
        """Whether ``prompt`` holds the text as whole words, in any case."""
        return says(self.text, prompt)

    def numbers(self, class_names: Sequence[str]) -> tuple[int, ...]:
        """The classes whose names say it. Raises BadInput where none does."""
        found = tuple(c for c, name in enumerate(class_names) if self.said_by(name))
        if not found:
            raise BadInput(
                f"target {self}: no class or caption says {self.text!r}{nearest(self.text, class_names)}; "
                f"there are: {listing(class_names)}; or show it by images or prompts of its own (--images, --prompts)"
            )
        return found

    def classes(self, data: ImageData) -> tuple[int, ...]:
        """Its classes in ``data``: those that ``data`` says are meant, else those whose names say it."""
        return data.meant.get(str(self)) or self.numbers(data.class_names)

    def members(self, data: ImageData) -> Tensor:
        """Mask [N] of the samples whose class says it."""
        if data.labels is None:
            raise BadInput(f"target {self} needs class names or captions, and {data.spec} has none; use samples:FILE")
        return torch.isin(data.labels, torch.tensor(self.classes(data)))


def says(text: str, prompt: str) -> bool:
    """Whether ``prompt`` holds ``text`` as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(text.strip())}(?!\w)", prompt, re.IGNORECASE) is not None


def _bare(text: str) -> str:
    return re.sub(r"^(a|an|the)\s+", "", " ".join(text.casefold().split()))


Target = Class | Samples | Concept
KINDS: dict[str, Callable[[str], Target]] = {"class": Class, "samples": Samples, "concept": Concept}
EXAMPLES = {"class": "class:7", "samples": "samples:files.txt", "concept": "'concept:Van Gogh'"}


def parse(text: str) -> Target:
    """``"class:7"`` -> ``Class("7")``. Raises BadInput for another form."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS:
        forms = listing(f"{k}:..." for k in KINDS)
        raise BadInput(f"target {text!r} is not of the form {forms}{nearest(kind, KINDS)}")
    if not rest.strip():
        raise BadInput(f"target {text!r} says of no {kind} which; give it after the colon, such as {EXAMPLES[kind]}")
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
    return tuple(sorted({c for t in targets if isinstance(t, (Class, Concept)) for c in t.classes(data)}))
