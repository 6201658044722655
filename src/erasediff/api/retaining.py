"""What a model is to keep where the user does not say: prompts like the target's, the anchor, the null prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from erasediff.data import wording
from erasediff.data.assembled import NULL
from erasediff.data.targets import Class, Concept, Target, says
from erasediff.errors import BadInput
from erasediff.families.similarity import nearest_prompts

NEIGHBOURS = 8
COMPARED = 16  # prompts of the target to which candidates are compared


@dataclass(frozen=True)
class Retained:
    """``forgotten``: the prompts that mean a target; ``gone``: what the model had to forget before."""

    model: Any
    forgotten: Sequence[str]
    wanted: Sequence[Target]
    gone: Sequence[Target]
    anchors: Sequence[str]

    def automatic(self) -> tuple[str, ...]:
        """The common prompts most like the target by the model's text encoder, the anchors, the null prompt."""
        named = [t.text if isinstance(t, Concept) else str(t.label) for t in self._named()]
        free = [p for p in wording.COMMON if not any(says(text, p) for text in named) and p not in self.forgotten]
        candidates = [p for p in readable(self.model, free) if p not in self.anchors]
        to = list(self.forgotten[:COMPARED])
        asked = self.model.with_prompts([*candidates, *to])
        table = getattr(asked, "table", None)
        near = candidates[:NEIGHBOURS]
        if table is not None and candidates:
            near = nearest_prompts(table, candidates, to, NEIGHBOURS)
        null = (NULL,) if asked.conditions.null_label is not None else ()
        return tuple(dict.fromkeys([*near, *self.anchors, *null]))

    def check(self, prompts: Iterable[str]) -> None:
        """Raise BadInput if one of the prompts of what is kept means what is to be forgotten."""
        for prompt in prompts:
            if prompt in self.forgotten:
                raise BadInput(f"{prompt!r} is to be retained and to be forgotten; take it out of one of the two")

    def _named(self) -> list[Concept | Class]:
        return [t for t in [*self.wanted, *self.gone] if isinstance(t, (Concept, Class))]


def readable(model: Any, prompts: Sequence[str]) -> list[str]:
    """Those of our own prompts that the model's tokenizer would not cut."""
    try:
        model.with_prompts(prompts)
        return list(prompts)
    except BadInput:
        return [p for p in prompts if _reads(model, p)]


def _reads(model: Any, prompt: str) -> bool:
    try:
        model.with_prompts([prompt])
    except BadInput:
        return False
    return True
