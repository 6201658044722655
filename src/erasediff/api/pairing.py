"""What is said once for all concepts, or once for each of them: anchors, images, prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from erasediff.data import wording
from erasediff.data.targets import Concept, Target
from erasediff.errors import BadInput, listing

Given = str | Path | Sequence[str | Path] | None


def paired(wanted: Sequence[Target], *, anchor: Given, images: Given, prompts: Given) -> list[Target]:
    """``wanted`` with every concept's anchor, images and prompts; what a concept brings itself stays.

    What is given once serves every concept: of a prompts file each takes the lines that say it. What is given as often
    as there are concepts is matched in order. Raises BadInput for other numbers, and for lines that say no concept.
    """
    concepts = [t for t in wanted if isinstance(t, Concept)]
    spread: dict[str, list[Any]] = {
        "anchor": _spread("anchor", anchor, concepts, alone=True),
        "images": _spread("images", images, concepts),
        "prompts": [*_shared(prompts, concepts)] or _spread("prompts", prompts, concepts),
    }
    found = iter([_with(c, {name: v[i] for name, v in spread.items() if v}) for i, c in enumerate(concepts)])
    return [next(found) if isinstance(t, Concept) else t for t in wanted]


def _with(concept: Concept, given: dict[str, Any]) -> Concept:
    missing: dict[str, Any] = {name: value for name, value in given.items() if getattr(concept, name) is None}
    return replace(concept, **missing)


def several(given: Given) -> list[str | Path]:
    """One, several or none -> a list."""
    if given is None:
        return []
    return [given] if isinstance(given, (str, Path)) else list(given)


def anchors_of(wanted: Sequence[Target], anchor: Given) -> dict[str, str]:
    """Target as text -> what comes in its place; empty where there is no anchor at all.

    Raises BadInput where some targets have an anchor and others none.
    """
    once = several(anchor)
    common = str(once[0]) if len(once) == 1 else None
    found = {str(t): (t.anchor if isinstance(t, Concept) else None) or common for t in wanted}
    without = [text for text, said in found.items() if said is None]
    if len(without) == len(found):
        return {}
    if without:
        raise BadInput(
            f"some targets have an anchor and {listing(without)} has none; give one for each, or one --anchor for all"
        )
    return {text: str(said) for text, said in found.items()}


def _spread(what: str, given: Given, concepts: Sequence[Concept], *, alone: bool = False) -> list[Any]:
    values = several(given)
    if values and not concepts and not (alone and len(values) == 1):
        raise BadInput(f"{what} belongs to a target of the form concept:TEXT, and there is none")
    if len(values) == 1:
        return values * len(concepts)
    if values and len(values) != len(concepts):
        raise BadInput(
            f"{what} is given {len(values)} times for {len(concepts)} concepts ({listing(concepts)}); give it once for "
            "all of them, or once for each in their order"
        )
    return values


def _shared(given: Given, concepts: Sequence[Concept]) -> list[tuple[str, ...]]:
    """The lines of one prompts file, each with the concepts that it says; empty where nothing is shared."""
    values = several(given)
    if len(values) != 1 or len(concepts) < 2:
        return []
    lines = wording.read(values[0])
    lost = [line for line in lines if not any(c.said_by(line) for c in concepts)]
    if lost:
        raise BadInput(
            f"prompts file {values[0]} serves {len(concepts)} concepts, and the line {lost[0]!r} says none of them "
            f"({listing(c.text for c in concepts)}); give a file for each"
        )
    found = [tuple(line for line in lines if c.said_by(line)) for c in concepts]
    silent = [c for c, said in zip(concepts, found, strict=True) if not said]
    if silent:
        raise BadInput(f"prompts file {values[0]} has no line that says {silent[0].text!r}; add one, or a file for it")
    return found
