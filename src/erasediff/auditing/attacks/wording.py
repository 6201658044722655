"""Searching for words: what the attacks on a model asked in words share.

Each looks for rows of the text encoder's output (from free vectors, or from real tokens) under which the erased model
draws the target. None changes a weight, and all ask with what they found as any prompt is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from erasediff.auditing.attacks.asking import passes
from erasediff.auditing.attacks.base import Scene, needs
from erasediff.auditing.generate import images
from erasediff.auditing.question import Question
from erasediff.errors import BadInput
from erasediff.families.base import AskedInWords, Searchable, TextReader

MOST_APART = 3  # a target of more prompts is searched as one: they are paraphrases of a concept
MARGIN, ALONE = 0.15, 0.5
NOT_IN_WORDS = "the model is not asked in words"

Rows = Mapping[str, Tensor]


def unasked(scene: Scene, *, base: bool = False) -> str | None:
    """Why no words can be searched for: the model is asked otherwise, or judge, target or ``base`` is missing."""
    model = scene.model
    if not isinstance(model, AskedInWords):
        return NOT_IN_WORDS
    if not isinstance(model, Searchable):
        return f"family {model.family} gives no text encoder to search: only models with a single one do"
    return needs(scene, judge=True, classes=True, base=base)


def reader_of(scene: Scene) -> TextReader:
    """The text encoder of the scene's model. Raises BadInput where there is none to search."""
    if not isinstance(scene.model, Searchable):
        raise BadInput(f"no words can be searched for: {unasked(scene)}; choose another attack")
    return scene.model.reader()


def parts(question: Question) -> list[tuple[int, ...]]:
    """The target's classes, each for itself where they are few, else all as one."""
    return [(c,) for c in question.classes] if len(question.classes) <= MOST_APART else [question.classes]


def own_tokens(scene: Scene, reader: TextReader, classes: Sequence[int], others: Sequence[int]) -> list[int]:
    """The tokens of the prompts ``classes`` that no prompt of ``others`` has, in their order; if none, all of them."""
    names = scene.model.class_names
    elsewhere = {token for c in others for token in reader.tokens(names[c])}
    own = [token for c in classes for token in reader.tokens(names[c])]
    return [token for token in own if token not in elsewhere] or own


@torch.no_grad()
def rows_of_tokens(reader: TextReader, prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """The rows of prompts given as tokens, one by one, so that each is to the last bit what its text is read as."""
    return joined([reader.read(reader.vectors[list(tokens)][None]) for tokens in prompts])


def joined(rows: Sequence[Rows]) -> dict[str, Tensor]:
    """Rows one after the other."""
    return {name: torch.cat([one[name] for one in rows]) for name in rows[0]}


def drawn_words(
    reader: TextReader, count: int, generator: torch.Generator, before: Sequence[Sequence[int]] = ((),)
) -> tuple[int, ...]:
    """``count`` random words that spell a text together, with each of ``before`` behind them.

    Raises BadInput where none were found.
    """
    words = reader.words
    for _ in range(100):
        chosen = words[torch.randint(len(words), (count,), generator=generator)]
        found = tuple(chosen.tolist())
        if all(reader.spelled((*found, *rest)) is not None for rest in before):
            return found
    raise BadInput(f"no {count} of the tokenizer's {len(words)} words spell a text together; search fewer tokens")


def asked_with(
    scene: Scene, reader: TextReader, rows: Rows, denoiser: nn.Module, count: int, kind: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of ``count`` images, asked with ``rows`` in turn, show the target, and which the judge alone calls it."""
    question, each = scene.question, passes(scene)

    def counted(drawn: int) -> None:
        question.tick(drawn * each)

    asked = reader.with_rows({name: row.detach() for name, row in rows.items()})
    drawn = images(
        asked,
        torch.arange(asked.conditions.num_classes).repeat(count)[:count],
        count,
        seed=question.seed,
        kind=kind,
        guidance_scale=question.guidance_scale,
        num_inference_steps=question.suite.num_inference_steps,
        mixed_precision=question.mixed_precision,
        denoiser=denoiser,
        on_batch=counted,
    )
    return question.shows_target(drawn), question.called_target(drawn)
