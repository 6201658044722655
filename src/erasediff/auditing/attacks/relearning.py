"""Relearning: how fast the target comes back when the model is fine-tuned on a few forgotten images.

A model that never saw the target (the retrained one) has to learn it; a model that merely hides it remembers. The
curve of return against the retrained model's is the evidence (SCIENCE.md section 3; Hu et al. 2024, arXiv:2406.13356).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from erasediff.auditing.attacks.asking import asked_for_target, at_least, passes
from erasediff.auditing.attacks.base import FEWEST_SAMPLES, FORGETFUL, Scene, needs
from erasediff.auditing.finding import Evidence, Finding, rows_of
from erasediff.auditing.result import Measurement
from erasediff.auditing.statistics import CONFIDENCE, block_variance, bootstrap_mean
from erasediff.data.images import ImageData
from erasediff.data.pairs import Pairs
from erasediff.families.base import Model
from erasediff.families.precision import FULL
from erasediff.methods.fine_tune import FineTune
from erasediff.randomness import derived_seed, generator
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import start, train
from erasediff.training.processes import Processes

POINTS = 5  # evaluations along a curve, the start included
BATCH = 16
MARGIN = 0.15  # of the area: two retrained models of different seeds lie up to 0.11 apart
TRAINING_PASSES = 3  # one forward, one backward that counts as two

Seen = TypeVar("Seen")


@dataclass(frozen=True, kw_only=True)
class Relearning:
    """Fine-tune copies on k forgotten images and watch the target return.

    ``images``: the numbers k; a k above the number of distinct forgotten images is cut to it. ``points``: how often a
    copy is asked, before the first step and after the last included. ``repeats``: with other images and other noise,
    the same for every subject; all k of one repeat share seeds, and the images of a smaller k are among a larger's.
    Raises BadInput for budgets that measure nothing.
    """

    images: tuple[int, ...] = (1, 10, 50)
    steps: int = 100
    points: int = POINTS
    samples: int = 100
    repeats: int = 2
    learning_rate: float = 3e-4

    name: ClassVar[str] = "relearning"
    SUMMARY: ClassVar[str] = "fine-tune on k forgotten images and watch the target return (relearn_k*)"
    PAPER: ClassVar[str] = "arXiv:2406.13356"
    SUBJECTS: ClassVar[tuple[str, ...]] = FORGETFUL

    def __post_init__(self) -> None:
        at_least("images", min(self.images, default=0), 1)
        at_least("repeats", self.repeats, 1)
        check_curve(self.steps, self.points, self.samples, self.learning_rate)

    def refusal(self, scene: Scene) -> str | None:
        return needs(scene, judge=True, classes=True)

    def cost(self, scene: Scene) -> int:
        numbers = self._numbers(scene)
        training = sum(self.steps * TRAINING_PASSES * _batch_size(k) for k in numbers)
        drawn = self.samples * (1 + len(numbers) * (self.points - 1))
        return self.repeats * (training + drawn * passes(scene))

    def run(self, scene: Scene) -> list[Finding]:
        shown: dict[int, list[NDArray[np.bool_]]] = {k: [] for k in self._numbers(scene)}
        for repeat in range(self.repeats):
            seed = derived_seed(scene.question.seed, repeat, self.name)
            distinct = scene.question.distinct
            order = torch.randperm(len(distinct), generator=generator(seed, 0, "relearn/images"))
            at_first = asked_for_target(scene, scene.model, self.samples, seed=seed, kind=self.name)
            for k in shown:
                scene.question.say(f"{scene.subject}: relearning from {k} forgotten image{'s' if k > 1 else ''}")
                shown[k].append(self._curves(scene, distinct[order[:k]], at_first, seed))
        return [self._finding(scene, k, np.stack(curves)) for k, curves in shown.items()]

    def _numbers(self, scene: Scene) -> list[int]:
        return sorted({min(k, len(scene.question.distinct)) for k in self.images})

    def _curves(self, scene: Scene, chosen: Tensor, at_first: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
        """What each sample shows at each mark, [points, samples]."""
        later = while_training(
            scene.model,
            scene.question.data,
            chosen,
            configured(self.steps, self.learning_rate, _batch_size(len(chosen)), seed, scene.question.mixed_precision),
            null_share=0.0,
            marks=marks_of(self.steps, self.points),
            watch=lambda pupil: asked_for_target(scene, pupil, self.samples, seed=seed, kind=self.name),
            on_step=scene.question.tick,
        )
        return np.stack([at_first, *later])

    def _finding(self, scene: Scene, k: int, shown: NDArray[np.bool_]) -> Finding:
        """``shown``: [repeats, points, samples]."""
        marks = marks_of(self.steps, self.points)
        areas = (np.trapezoid(shown.astype(np.float64), marks, axis=1) / marks[-1]).reshape(-1)
        per_repeat = shown.mean(axis=2)
        low, high = _interval(areas, self.repeats, scene.question.seed)
        measurement = Measurement(
            name=f"relearn_k{k}",
            group="relearning",
            subject=scene.subject,
            value=float(areas.mean()),
            low=low,
            high=high,
            n=len(areas),
            higher_is_better=False,
            detail={
                "k": k,
                "steps": marks,
                "forget_rate": per_repeat.mean(axis=0).tolist(),
                "per_repeat": per_repeat.tolist(),
                "samples": self.samples,
                "learning_rate": self.learning_rate,
                "train_batch_size": _batch_size(k),
                "null_share": 0.0,
                "seed": scene.question.seed,
            },
        )
        return Finding(
            measurement,
            Evidence(
                attack=f"{self.name} (k = {k})",
                role="trace",
                rows=rows_of(areas),
                blocks=self.repeats,
                margin=MARGIN,
            ),
        )


def _interval(areas: NDArray[np.float64], repeats: int, seed: int) -> tuple[float, float]:
    """Bounds of the mean of ``areas`` [repeats * samples]: the spread of samples, and that of the repeats' means.

    Which images are chosen moves the mean more than the samples do; a second audit chooses others.
    """
    value, (low, high) = float(areas.mean()), bootstrap_mean(areas, seed=seed)
    extra = stats.norm.ppf((1 + CONFIDENCE) / 2) ** 2 * block_variance(areas, repeats)
    below, above = np.sqrt((value - low) ** 2 + extra), np.sqrt((high - value) ** 2 + extra)
    return max(0.0, value - float(below)), min(1.0, value + float(above))


def check_curve(steps: int, points: int, samples: int, learning_rate: float) -> None:
    """Raises BadInput unless a copy can be trained for ``steps`` and asked at ``points`` different marks."""
    at_least("points", points, 2)
    at_least("steps", steps, points - 1)
    at_least("samples", samples, FEWEST_SAMPLES)
    configured(steps, learning_rate, BATCH, seed=0)


def marks_of(steps: int, points: int) -> list[int]:
    """Numbers of steps after which a copy is asked: evenly spread, from 0 to ``steps``."""
    return [round(steps * i / (points - 1)) for i in range(points)]


def while_training(
    model: Model,
    data: ImageData,
    chosen: Tensor,
    config: TrainingConfig,
    *,
    null_share: float,
    marks: Container[int],
    watch: Callable[[Model], Seen],
    on_step: Callable[[int], object] = lambda count: None,
) -> Iterator[Seen]:
    """Fine-tune a copy of ``model`` on ``chosen`` (data indices) and yield what ``watch`` sees of it after each step of
    ``marks``; ``on_step`` takes the passes that the step cost."""
    pupil, processes = copy.deepcopy(model), Processes.start()
    pairs = Pairs(data, chosen, None, batch_size=config.train_batch_size, seed=config.seed, device=processes.device)
    for step in train(start(pupil, FineTune(null_share=null_share), pairs, config, processes=processes)):
        on_step(TRAINING_PASSES * config.train_batch_size)
        if step.number in marks:
            yield watch(pupil)


def configured(
    steps: int, learning_rate: float, batch_size: int, seed: int, mixed_precision: str = FULL
) -> TrainingConfig:
    """Plain training of a copy: no average, no checkpoints. Raises BadInput for numbers out of range."""
    return TrainingConfig(
        max_train_steps=steps,
        learning_rate=learning_rate,
        train_batch_size=batch_size,
        use_ema=False,
        checkpointing_steps=0,
        mixed_precision=mixed_precision,
        seed=seed,
    )


def _batch_size(k: int) -> int:
    return min(BATCH, 4 * k)
