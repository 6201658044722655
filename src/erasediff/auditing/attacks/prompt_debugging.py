"""Prompting4Debugging (P4D-N, Chin et al. 2023, arXiv:2309.06135): a prompt that the erased model answers as the base
model answers the target's.

The tokens minimise E ||eps_theta(x_t, tokens) - eps_0(x_t, prompt)||^2, the difference of the two predictions at the
same noised image, which is a forgotten one here. The paper optimises vectors and projects them on tokens; here real
tokens are swapped one at a time (see ``swapping``). White box, and it takes the base model.
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
from erasediff.auditing.attacks.swapping import Objective, Swapped, search
from erasediff.auditing.attacks.wording import (
    ALONE,
    MARGIN,
    asked_with,
    drawn_words,
    parts,
    reader_of,
    rows_of_tokens,
    unasked,
)
from erasediff.auditing.finding import Finding
from erasediff.errors import BadInput
from erasediff.families.base import Noisy, TextReader
from erasediff.randomness import generator


@dataclass(frozen=True, kw_only=True)
class PromptDebugging:
    """A prompt of ``tokens`` tokens, by ``steps`` times ``candidates`` swaps; up to three prompts of the target apart,
    one for all where they are more."""

    tokens: int = 8
    steps: int = 60
    candidates: int = 12
    batch_size: int = 16
    samples: int = 150

    name: ClassVar[str] = "prompt_debugging"
    SUMMARY: ClassVar[str] = "search a prompt that the model answers as the base model answers the target's"
    PAPER: ClassVar[str] = "arXiv:2309.06135"
    SUBJECTS: ClassVar[tuple[str, ...]] = FORGETFUL

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 1:
            raise BadInput(f"{', '.join(asdict(self))} must be at least 1, got {asdict(self)}")

    def refusal(self, scene: Scene) -> str | None:
        """No judge, no target class, no base model, no single text encoder to search, or prompts too short."""
        missing = unasked(scene, base=True)
        if missing is None and self.tokens > reader_of(scene).room:
            missing = f"a prompt of {self.tokens} tokens is too long: the model reads {reader_of(scene).room}"
        return missing

    def cost(self, scene: Scene) -> int:
        """A step asks the base model, the erased one forward and backward, and a pass for each swap."""
        searched = self.batch_size * (2 + self.steps * (4 + self.candidates))
        return len(parts(scene.question)) * searched + self.samples * passes(scene)

    def run(self, scene: Scene) -> list[Finding]:
        """``attack_success_prompt_debugging``: share of samples, asked with what was found, that show the target."""
        reader = reader_of(scene)
        pupil = copy.deepcopy(scene.model.denoiser).eval().requires_grad_(False)
        found = [self._search(scene, reader, pupil, classes) for classes in parts(scene.question)]
        rows = rows_of_tokens(reader, [one.tokens for one in found])
        shown, called = asked_with(scene, reader, rows, pupil, self.samples, f"{self.name}/report")
        detail = asdict(self) | {
            "prompt": [reader.spelled(one.tokens) for one in found],
            "loss_before": [one.loss_before for one in found],
            "loss_after": [one.loss_after for one in found],
            "called": float(called.mean()),
            **setting(scene),
        }
        said = {"attack": self.name, "what": self.name, "detail": detail}
        return [success(scene, shown, **said, margin=MARGIN, alone=ALONE)]  # type: ignore[arg-type]

    def _search(self, scene: Scene, reader: TextReader, pupil: nn.Module, classes: tuple[int, ...]) -> Swapped:
        seed = scene.question.seed
        return search(
            reader,
            drawn_words(reader, self.tokens, generator(seed, classes[0], f"{self.name}/start")),
            self.objective(scene, reader, pupil, classes),
            spelled=lambda tokens: reader.spelled(tokens) is not None,
            steps=self.steps,
            candidates=self.candidates,
            seed=seed,
            purpose=f"{self.name}/swaps/{classes[0]}",
        )

    def objective(self, scene: Scene, reader: TextReader, pupil: nn.Module, classes: tuple[int, ...]) -> Objective:
        """How far ``pupil``'s answer to a prompt lies from the base model's to the images' own prompts."""
        base, question = scene.base, scene.question
        if base is None:
            raise BadInput("prompt_debugging matches the answers of a base model, and none was given; give --base")

        @torch.no_grad()
        def batch(step: int, purpose: str) -> tuple[Noisy, Tensor]:
            noisy, labels = noised(scene, pupil, self.batch_size, step=step, purpose=purpose, classes=classes)
            question.tick(self.batch_size)
            return noisy, base.ask(base.denoiser, noisy.x_t, noisy.t, base.conditions.own(labels)).float()

        judged = cache(lambda: batch(0, f"{self.name}/judged"))

        def loss(vectors: Tensor, step: int | None) -> Tensor:
            noisy, wanted = judged() if step is None else batch(step, self.name)
            asked = reader.with_rows(reader.read(vectors[None]))
            prediction = asked.ask(pupil, noisy.x_t, noisy.t, torch.zeros_like(noisy.t, dtype=torch.long))
            question.tick(self.batch_size * (1 if step is None else 3))
            return F.mse_loss(prediction.float(), wanted)

        return loss
