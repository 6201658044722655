"""Membership inference from the update: erasing moves the weights up the loss of what it erases.

After the update-leakage line of work (Bertran et al. 2024, arXiv:2405.20272; Hu et al. 2024, arXiv:2404.03233), where
the difference of the weights before and after unlearning stands for the gradient of what was unlearned. The score of
an image x is ``<grad loss(x; theta_0), theta_u - theta_0> / ||theta_u - theta_0||``: how fast its denoising loss at the
base model theta_0 rises along the way to theta_u; positive and large means "was forgotten". It is a directional
derivative, taken for a whole batch by a central difference in float64: forward-mode differentiation of torch 2.13
fails in group normalisation after an attention block, whose tangent is not contiguous.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from erasediff.auditing.attacks.base import FEWEST_SAMPLES, FORGETFUL, Scene
from erasediff.auditing.attacks.gradient_membership import differentiable, losses
from erasediff.auditing.attacks.membership import chosen, needs_images, of, told_apart
from erasediff.auditing.attacks.scores import asked, drawn
from erasediff.auditing.finding import Finding
from erasediff.errors import BadInput
from erasediff.families.base import Model

BATCH = 128
AHEAD_AND_BEHIND = 2
STEP = 1e-3  # in float64: its cube is far below, and float32 rounding inside a model far above, what matters


@dataclass(frozen=True, kw_only=True)
class WeightDifference:
    """Score at most ``images`` forgotten and held-out images each by the rise of their loss along the update.

    ``draws``: time steps, evenly spread, over which the rises are summed. Raises BadInput for fewer than six images, or
    no draw.
    """

    images: int = 300
    draws: int = 8

    name: ClassVar[str] = "weight_difference"
    SUMMARY: ClassVar[str] = "tell forgotten from held-out images by how the weights moved (white box, needs the base)"
    PAPER: ClassVar[str] = "arXiv:2404.03233"
    SUBJECTS: ClassVar[tuple[str, ...]] = FORGETFUL

    def __post_init__(self) -> None:
        if self.images < FEWEST_SAMPLES or self.draws < 1:
            given = f"{self.images} and {self.draws}"
            raise BadInput(f"{self.name} needs at least {FEWEST_SAMPLES} images and one draw; got {given}")

    def refusal(self, scene: Scene) -> str | None:
        found = needs_images(scene, base=True)
        if found is None and scene.base is not None and _shapes(scene.base) != _shapes(scene.model):
            return "the base model's weights have other shapes than this model's"
        return found

    def cost(self, scene: Scene) -> int:
        return AHEAD_AND_BEHIND * self.draws * sum(map(len, chosen(scene.question, self.images)))

    def run(self, scene: Scene) -> list[Finding]:
        members, others = (self._scored(scene, rows) for rows in chosen(scene.question, self.images))
        return told_apart(scene, members, others, attack=self.name, kind="weight_difference", budget=asdict(self))

    def _scored(self, scene: Scene, rows: Tensor) -> NDArray[np.float64]:
        if scene.base is None:
            raise BadInput(f"{self.name} compares with the base model, and none was given")
        question, base, scores = scene.question, scene.base, []
        towards = direction(base.denoiser, scene.model.denoiser)
        for some in rows.split(BATCH):
            images, labels = of(question, some)
            scores.append(rises(base, towards, images, labels, draws=self.draws, seed=question.seed))
            question.tick(len(some) * self.draws * AHEAD_AND_BEHIND)
        return np.concatenate(scores)


def direction(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """``theta_u - theta_0`` at length 1 in float64, by parameter name, where ``before`` is; zeros if nothing moved."""
    moved = dict(after.named_parameters())
    found = {name: moved[name].detach().to(p).double() - p.detach().double() for name, p in before.named_parameters()}
    length = float(torch.stack([d.square().sum() for d in found.values()]).sum().sqrt())
    return {name: d / (length or 1.0) for name, d in found.items()}


@torch.no_grad()
def rises(
    model: Model, towards: Mapping[str, Tensor], images: Tensor, labels: Tensor | None, *, draws: int, seed: int
) -> NDArray[np.float64]:
    """How fast the denoising loss of each image [N] rises where the weights move ``towards``, summed over ``draws``.

    ``images``: [N, C, H, W] in [-1, 1]; ``labels``: [N], or ``None`` for an unconditional model; ``towards``: a
    float64 direction of length 1, by parameter name.
    """
    denoiser = differentiable(model).double()
    moved = [
        {name: p.detach() + side * STEP * towards[name] for name, p in denoiser.named_parameters()} for side in (1, -1)
    ]
    found = []
    for x_0, condition in asked(model, images, labels, BATCH):
        total = torch.zeros(len(x_0), dtype=torch.float64)
        for noisy in drawn(model, x_0, draws, seed=seed, purpose="membership/update"):
            x_t, target = noisy.x_t.double(), model.noising.target(noisy).double()
            ahead, behind = (losses(model, denoiser, w, x_t, noisy.t, target, condition) for w in moved)
            total += ((ahead - behind) / (2 * STEP)).cpu()
        found.append(total)
    return np.asarray(torch.cat(found).numpy())


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.denoiser.named_parameters()}
