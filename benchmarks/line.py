"""The line of a race: what a model must reach, and how that is measured, cheaply first and whole at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erasediff.auditing.classifier import Judge
from erasediff.auditing.generate import images
from erasediff.auditing.metrics.distribution import frechet_distance
from erasediff.data.images import ImageData
from erasediff.data.targets import Split
from erasediff.families.base import Model
from erasediff.families.precision import FULL

FIRST_LOOK = 100  # forget samples of the cheap check
HOPELESS = 3.0  # times the allowed forget rate on that check: no need to measure the rest


@dataclass
class Line:
    """Forget rate and Frechet distance (as a ratio to the base model's), on two sampling seeds."""

    judge: Judge
    data: ImageData
    split: Split
    forget_rate: float = 0.02
    frechet_ratio: float = 1.10
    samples: int = 500
    retained_per_class: int = 112
    num_inference_steps: int = 12
    guidance_scale: float = 1.5
    mixed_precision: str = FULL  # of the drawing

    def __post_init__(self) -> None:
        self.kept = [c for c in range(len(self.data.class_names)) if c not in self.split.classes]
        self.real = self.judge.features(self.data.floats(self.split.retain))
        self.base: dict[int, float] = {}

    def of(self, model: Model) -> Line:
        """Measure the base model: what the ratios are to."""
        self.base = {seed: self._frechet(model, seed) for seed in (0, 1)}
        return self

    def forgotten(self, model: Model, seed: int, count: int) -> float:
        """Share of ``count`` samples asked for the target that the judge calls the target."""
        labels = torch.tensor(self.split.classes).repeat(count)[:count]
        drawn = self._draw(model, labels, "forget", seed)
        found = self.judge.probabilities(drawn).argmax(1)
        return float(torch.isin(found, torch.tensor(self.split.classes)).double().mean())

    def ratio(self, model: Model, seed: int) -> float:
        """Frechet distance of the retained classes over the base model's."""
        return self._frechet(model, seed) / self.base[seed]

    def measure(self, model: Model) -> dict[str, float | bool | None]:
        """A point of the curve, and whether the line is reached: confirmed on a second sampling seed where it is."""
        glance = self.forgotten(model, 0, FIRST_LOOK)
        if glance > HOPELESS * self.forget_rate:
            return {"forget_rate": glance, "frechet_ratio": None, "reached": False}
        rate, ratio = self.forgotten(model, 0, self.samples), self.ratio(model, 0)
        reached = self._within(rate, ratio)
        if reached:
            reached = self._within(self.forgotten(model, 1, self.samples), self.ratio(model, 1))
        return {"forget_rate": rate, "frechet_ratio": ratio, "reached": reached}

    def _within(self, rate: float, ratio: float) -> bool:
        return rate <= self.forget_rate and ratio <= self.frechet_ratio

    def _frechet(self, model: Model, seed: int) -> float:
        labels = torch.tensor(self.kept).repeat(self.retained_per_class)
        return frechet_distance(self.real, self.judge.features(self._draw(model, labels, "retain", seed)))

    def _draw(self, model: Model, labels: Tensor, kind: str, seed: int) -> Tensor:
        return images(
            model,
            labels,
            len(labels),
            seed=seed,
            kind=kind,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            mixed_precision=self.mixed_precision,
        )
