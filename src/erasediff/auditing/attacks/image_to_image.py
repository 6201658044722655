"""Start from a forgotten image: noise it part of the way and let the model denoise it as its class.

SDEdit (Meng et al. 2021, arXiv:2108.01073, alg. 1): x_t = signal x_0 + sigma noise at t = strength T, then the model's
own sampler from there on; under flow matching t / T is sigma itself. A model that never saw the class restores some of
such an image too, since the noise leaves some of it: only the comparison with a retrained model says something.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erasediff.auditing.attacks.base import FEWEST_SAMPLES, FORGETFUL, Scene, needs
from erasediff.auditing.finding import Evidence, Finding, rows_of
from erasediff.auditing.generate import BATCH
from erasediff.auditing.measuring import mean_measurement
from erasediff.errors import BadInput
from erasediff.families.base import Model
from erasediff.families.precision import FULL
from erasediff.families.sampling import steps_at, trajectory
from erasediff.randomness import generator


@dataclass(frozen=True, kw_only=True)
class ImageToImage:
    """Noise up to ``images`` forgotten images to each of ``strengths`` (shares of T, in [0, 1]) and denoise them."""

    strengths: tuple[float, ...] = (0.5, 0.7, 0.85)
    images: int = 200

    name: ClassVar[str] = "image_to_image"
    SUMMARY: ClassVar[str] = "noise forgotten images part of the way and denoise them as their class"
    PAPER: ClassVar[str] = "arXiv:2108.01073"
    SUBJECTS: ClassVar[tuple[str, ...]] = FORGETFUL

    def __post_init__(self) -> None:
        if not self.strengths or not all(0 <= s <= 1 for s in self.strengths) or self.images < FEWEST_SAMPLES:
            raise BadInput(f"strengths must lie in [0, 1] and images be at least {FEWEST_SAMPLES}, got {asdict(self)}")

    def refusal(self, scene: Scene) -> str | None:
        """No judge, no target class, or too few forgotten images to judge the nearness of."""
        missing = needs(scene, judge=True, classes=True)
        if missing is None and len(scene.question.distinct) < FEWEST_SAMPLES:
            missing = f"fewer than {FEWEST_SAMPLES} different forgotten images"
        return missing

    def cost(self, scene: Scene) -> int:
        """The part of the sampler's steps that is left from each strength."""
        timesteps = scene.model.sampler(scene.question.suite.num_inference_steps).timesteps
        left = [len(timesteps) - first_step(scene.model, timesteps, strength) for strength in self.strengths]
        return sum(left) * self._count(scene) * _passes(scene)

    def run(self, scene: Scene) -> list[Finding]:
        """``attack_success_image_to_image``: share of images that show the target again, a mean over the strengths."""
        question = scene.question
        shown = np.stack([self._shown(scene, strength) for strength in self.strengths])
        rows = shown.mean(0)
        detail = asdict(self) | {
            "per_strength": [self._record(scene, *pair) for pair in zip(self.strengths, shown, strict=True)],
            "classes": list(question.classes),
            "guidance_scale": question.guidance_scale,
            "num_inference_steps": question.suite.num_inference_steps,
            "space": question.features,
            "seed": question.seed,
        }
        name = "attack_success_image_to_image"
        measured = mean_measurement(name, "revival", scene.subject, rows, seed=question.seed, detail=detail)
        return [Finding(measured, Evidence(attack=self.name, role="access", rows=rows_of(rows), margin=0.15))]

    def _count(self, scene: Scene) -> int:
        return min(self.images, len(scene.question.distinct))

    def _shown(self, scene: Scene, strength: float) -> NDArray[np.bool_]:
        """Which of the images [N] show the target again. Every model is given the same images and the same noise."""
        question, model = scene.question, scene.model
        device = next(model.denoiser.parameters()).device
        order = torch.randperm(len(question.distinct), generator=generator(question.seed, 0, self.name))
        chosen = question.distinct[order[: self._count(scene)]]
        labels = _labels(scene, chosen)
        noise = generator(question.seed, 0, f"{self.name}/{strength}")
        drawn = []
        for rows in torch.arange(len(chosen)).split(BATCH):
            with torch.no_grad():
                x_0 = model.encode(question.data.floats(chosen[rows]).to(device))
            restored, passes = restore(
                model,
                x_0,
                labels[rows].to(device),
                torch.randn(x_0.shape, generator=noise).to(device),
                strength=strength,
                guidance_scale=question.guidance_scale,
                num_inference_steps=question.suite.num_inference_steps,
                mixed_precision=question.mixed_precision,
            )
            drawn.append(restored.cpu())
            question.tick(passes * len(rows))
        return question.shows_target(torch.cat(drawn))

    def _record(self, scene: Scene, strength: float, shown: NDArray[np.bool_]) -> dict[str, Any]:
        timesteps = scene.model.sampler(scene.question.suite.num_inference_steps).timesteps
        begin = first_step(scene.model, timesteps, strength)
        return {"strength": strength, "first_timestep": timesteps[begin].item(), "shown": float(shown.mean())}


def first_step(model: Model, timesteps: Tensor, strength: float) -> int:
    """Where in the falling ``timesteps`` the sampler begins: at the largest that is at most ``strength`` T, else at the
    last, so that some noise is always added: an image handed back untouched would show the target for free."""
    reached = (timesteps.cpu() <= strength * model.noising.num_train_timesteps).nonzero()
    return int(reached[0]) if len(reached) else len(timesteps) - 1


@torch.no_grad()
def restore(
    model: Model,
    x_0: Tensor,
    labels: Tensor,
    noise: Tensor,
    *,
    strength: float,
    guidance_scale: float,
    num_inference_steps: int,
    mixed_precision: str = FULL,
) -> tuple[Tensor, int]:
    """Noise ``x_0`` [B, C, H, W] by ``noise`` to ``strength`` and denoise it as the classes ``labels`` [B].

    Returns:
        images [B, C, H, W] in [-1, 1], and the forward passes of each.
    """
    condition, conditions = model.conditions.own(labels), model.conditions
    null = None if conditions.null_label is None or guidance_scale == 1.0 else conditions.null(labels)
    timesteps = model.sampler(num_inference_steps).timesteps
    begin = first_step(model, timesteps, strength)
    x = trajectory(
        model,
        model.noising.noised(x_0, noise, steps_at(timesteps[begin], x_0)).x_t,
        condition,
        null,
        start=begin,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        mixed_precision=mixed_precision,
    )
    return model.decode(x), len(timesteps[begin:]) * (1 if null is None else 2)


def _labels(scene: Scene, chosen: Tensor) -> Tensor:
    labels = scene.question.data.labels
    if labels is None:
        raise BadInput("the data has no labels: a forgotten image has no class to be denoised as; give labelled data")
    return labels[chosen]


def _passes(scene: Scene) -> int:
    guided = scene.question.guidance_scale != 1.0 and scene.model.conditions.null_label is not None
    return 2 if guided else 1
