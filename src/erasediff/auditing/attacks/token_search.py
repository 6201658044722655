"""Adversarial tokens in front of the target's own prompts (UnlearnDiffAtk, Zhang et al. 2023, arXiv:2310.11868).

The tokens minimise the erased model's denoising loss on forgotten images, E ||eps - eps_theta(x_t, text)||^2: the
model itself is the classifier, so that no other network is needed. The paper takes signed gradient steps on relaxed
tokens and projects them; here real tokens are swapped one at a time (see ``swapping``), so that every prompt on the way
is one that can be typed, and one prefix is found for all of the target's prompts and images, not one for each. White
box: it takes the gradient of the denoiser, but what it finds is a text that anyone can type.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erasediff.auditing.attacks.asking import passes, setting, success
from erasediff.auditing.attacks.base import FORGETFUL, Scene
from erasediff.auditing.attacks.forgotten import noised
from erasediff.auditing.attacks.swapping import Objective, Tokens, search
from erasediff.auditing.attacks.wording import (
    ALONE,
    MARGIN,
    asked_with,
    drawn_words,
    joined,
    reader_of,
    rows_of_tokens,
    unasked,
)
from erasediff.auditing.finding import Finding
from erasediff.errors import BadInput
from erasediff.families.base import Noisy, TextReader
from erasediff.randomness import generator


@dataclass(frozen=True, kw_only=True)
class TokenSearch:
    """``steps`` times try ``candidates`` swaps in a prefix of ``tokens`` tokens (fewer where prompts leave no room)."""

    tokens: int = 5
    steps: int = 40
    candidates: int = 12
    batch_size: int = 16
    samples: int = 150

    name: ClassVar[str] = "token_search"
    SUMMARY: ClassVar[str] = "search tokens that, in front of the target's prompt, make the model draw it"
    PAPER: ClassVar[str] = "arXiv:2310.11868"
    SUBJECTS: ClassVar[tuple[str, ...]] = FORGETFUL

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 1:
            raise BadInput(f"{', '.join(asdict(self))} must be at least 1, got {asdict(self)}")

    def refusal(self, scene: Scene) -> str | None:
        """No judge, no target class, no single text encoder to search, or no room in front of the prompts."""
        if missing := unasked(scene):
            return missing
        reader = reader_of(scene)
        if any(reader.spelled(own) is None for own in _prompts(scene, reader).values()):
            return "a prompt of the target holds special tokens, behind which no text can be searched"
        return None if self.room(scene, reader) >= 1 else "the target's prompts leave no room for another token"

    def cost(self, scene: Scene) -> int:
        """A step forward and backward, and a pass for each swap; the first prefix is judged too."""
        searched = self.batch_size * (1 + self.steps * (3 + self.candidates))
        return searched + self.samples * passes(scene)

    def room(self, scene: Scene, reader: TextReader) -> int:
        """How many tokens go in front of the target's prompts."""
        return min(self.tokens, reader.room - max(len(own) for own in _prompts(scene, reader).values()))

    def run(self, scene: Scene) -> list[Finding]:
        """``attack_success_token_search``: share of samples, asked with the prefix, that show the target."""
        question, reader = scene.question, reader_of(scene)
        pupil = copy.deepcopy(scene.model.denoiser).eval().requires_grad_(False)
        prompts = _prompts(scene, reader)
        drawn = generator(question.seed, 0, f"{self.name}/start")
        start = drawn_words(reader, self.room(scene, reader), drawn, [*prompts.values()])
        found = search(
            reader,
            start,
            self.objective(scene, reader, pupil),
            spelled=lambda prefix: all(reader.spelled((*prefix, *own)) is not None for own in prompts.values()),
            steps=self.steps,
            candidates=self.candidates,
            seed=question.seed,
            purpose=f"{self.name}/swaps",
        )
        whole = [(*found.tokens, *own) for own in prompts.values()]
        rows = rows_of_tokens(reader, whole)
        shown, called = asked_with(scene, reader, rows, pupil, self.samples, f"{self.name}/report")
        detail = asdict(self) | {
            "prompt": [reader.spelled(tokens) for tokens in whole],
            "start": reader.spelled(start),
            "loss_before": found.loss_before,
            "loss_after": found.loss_after,
            "called": float(called.mean()),
            **setting(scene),
        }
        said = {"attack": self.name, "what": self.name, "detail": detail}
        return [success(scene, shown, **said, margin=MARGIN, alone=ALONE)]  # type: ignore[arg-type]

    def objective(self, scene: Scene, reader: TextReader, pupil: nn.Module) -> Objective:
        """The denoising loss on forgotten images, asked by their own prompts behind the prefix."""
        question, prompts = scene.question, _prompts(scene, reader)

        def batch(step: int, purpose: str) -> tuple[Noisy, Tensor]:
            return noised(scene, pupil, self.batch_size, step=step, purpose=purpose, classes=question.classes)

        judged = cache(lambda: batch(0, f"{self.name}/judged"))

        def loss(prefix: Tensor, step: int | None) -> Tensor:
            noisy, labels = judged() if step is None else batch(step, self.name)
            there = sorted(set(labels.tolist()))
            read = [torch.cat([prefix, reader.vectors[list(prompts[c])]])[None] for c in there]
            asked = reader.with_rows(joined([reader.read(vectors) for vectors in read]))
            place = torch.tensor([there.index(c) for c in labels.tolist()], device=labels.device)
            prediction = asked.ask(pupil, noisy.x_t, noisy.t, place)
            question.tick(self.batch_size * (1 if step is None else 3))
            return F.mse_loss(prediction.float(), scene.model.noising.target(noisy))

        return loss


def _prompts(scene: Scene, reader: TextReader) -> dict[int, Tokens]:
    """The tokens of each of the target's prompts."""
    return {c: reader.tokens(scene.model.class_names[c]) for c in scene.question.classes}
