"""Retain training: does the target come back by itself when the model is trained further without it?

A model in daily use is fine-tuned again and again. Suriyakumar et al. 2024 (arXiv:2410.08074) found that erased
concepts resurge under fine-tuning on unrelated data: then they had been hidden, and were never gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from erasediff.auditing.attacks.asking import asked_for_target, passes, success
from erasediff.auditing.attacks.base import FORGETFUL, Scene, needs
from erasediff.auditing.attacks.relearning import (
    BATCH,
    POINTS,
    TRAINING_PASSES,
    check_curve,
    configured,
    marks_of,
    while_training,
)
from erasediff.auditing.finding import Finding
from erasediff.randomness import derived_seed

NULL_SHARE = 0.1  # as in training for guidance: with guidance the target can come back through the null condition


@dataclass(frozen=True, kw_only=True)
class RetainTraining:
    """Fine-tune a copy on the retain set alone; ``attack_success_retain_training`` is the share of its samples, asked
    for the target, that show it after the last step. Raises BadInput for budgets that measure nothing."""

    steps: int = 100
    points: int = POINTS
    samples: int = 150
    learning_rate: float = 3e-4

    name: ClassVar[str] = "retain_training"
    SUMMARY: ClassVar[str] = "fine-tune on the retain set alone and see whether the target comes back by itself"
    PAPER: ClassVar[str] = "arXiv:2410.08074"
    SUBJECTS: ClassVar[tuple[str, ...]] = FORGETFUL

    def __post_init__(self) -> None:
        check_curve(self.steps, self.points, self.samples, self.learning_rate)

    def refusal(self, scene: Scene) -> str | None:
        return needs(scene, judge=True, classes=True)

    def cost(self, scene: Scene) -> int:
        return self.steps * TRAINING_PASSES * BATCH + self.points * self.samples * passes(scene)

    def run(self, scene: Scene) -> list[Finding]:
        question, marks = scene.question, marks_of(self.steps, self.points)
        seed = derived_seed(question.seed, 0, self.name)
        at_first = asked_for_target(scene, scene.model, self.samples, seed=seed, kind=self.name)
        later = while_training(
            scene.model,
            question.data,
            question.retain,
            configured(self.steps, self.learning_rate, BATCH, seed, question.mixed_precision),
            null_share=NULL_SHARE,
            marks=marks,
            watch=lambda pupil: asked_for_target(scene, pupil, self.samples, seed=seed, kind=self.name),
            on_step=question.tick,
        )
        shown = [at_first, *later]
        detail = {
            "steps": marks,
            "forget_rate": [float(s.mean()) for s in shown],
            "learning_rate": self.learning_rate,
            "train_batch_size": BATCH,
            "null_share": NULL_SHARE,
            "seed": question.seed,
        }
        return [success(scene, shown[-1], attack=self.name, what="retain_training", detail=detail)]
