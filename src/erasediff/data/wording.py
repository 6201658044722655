"""Prompts: how a concept is asked for, what is asked for beside it, and prompts that a user hands in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from erasediff.errors import BadInput
from erasediff.files import read_text

# Neutral ways to ask for anything: they add no style, no place and no company.
TEMPLATES = ("{}", "an image of {}", "a picture of {}", "a close-up of {}", "{}, in detail")

# What a general model is asked for, of every kind: those most like a concept are its neighbours.
COMMON = (
    *("a photo of a person", "a portrait of a man", "a portrait of a woman", "a photo of a child", "a crowd of people"),
    *("a photo of a dog", "a photo of a cat", "a photo of a horse", "a photo of a bird", "a photo of a fish"),
    *("a photo of a car", "a photo of a bicycle", "a photo of an airplane", "a photo of a ship", "a train"),
    *("a chair", "a table with food", "a cup of coffee", "a bottle", "a clock", "a shoe", "a hat", "a dress", "a toy"),
    *("a house", "a city street at night", "a church", "a bridge", "a kitchen", "a garden"),
    *("a mountain landscape", "a beach at sunset", "a forest", "a river", "a flower", "a tree"),
    *(
        "an oil painting",
        "a watercolor painting",
        "a pencil drawing",
        "a cartoon",
        "an abstract painting",
        "a sculpture",
    ),
    *(
        "a painting by Claude Monet",
        "a painting by Pablo Picasso",
        "a painting by Rembrandt",
        "a black and white photo",
    ),
)


def distinct(prompts: Iterable[str]) -> tuple[str, ...]:
    """Without spaces around them, empty ones and repetitions, in their order."""
    return tuple(dict.fromkeys(p for text in prompts if (p := " ".join(text.split()))))


def read(source: str | Path | Sequence[str], what: str = "prompts") -> tuple[str, ...]:
    """The prompts of a file, one a line, or of a list. Raises BadInput for a missing file and for no prompt."""
    if not isinstance(source, (str, Path)):
        found = distinct(source)
        if not found:
            raise BadInput(f"{what} holds no prompt; give at least one")
        return found
    path = Path(source)
    if not path.is_file():
        raise BadInput(f"{what} file {path} does not exist; give a file with one prompt a line")
    found = distinct(read_text(path).splitlines())
    if not found:
        raise BadInput(f"{what} file {path} is empty; give one prompt a line")
    return found


def read_several(given: str | Path | Sequence[str | Path], what: str) -> tuple[str, ...]:
    """Prompts given as files and as texts, mixed: what is a file, or ends like one, is read as one."""
    entries = [given] if isinstance(given, (str, Path)) else list(given)
    found: list[str] = []
    for entry in entries:
        is_file = isinstance(entry, Path) or Path(entry).is_file() or entry.endswith(".txt")
        found += read(entry, what) if is_file else [str(entry)]
    return read(found, what)
