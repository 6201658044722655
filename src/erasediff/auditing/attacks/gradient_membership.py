"""Membership inference with the weights: what was trained on pulls at them less than what was not.

The norm of each image's own gradient of the denoising loss (GSA: Pang et al. 2023, arXiv:2308.06405, whose attacker
trains a classifier on such norms with data of known membership; here the norm itself is the score, so that nothing has
to be known). Mean over a few time steps, each with one noise that all images share.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.attention import SDPBackend, sdpa_kernel

from erasediff.auditing.attacks.base import BASE, FEWEST_SAMPLES, FORGETFUL, Scene
from erasediff.auditing.attacks.membership import chosen, needs_images, of, told_apart
from erasediff.auditing.attacks.scores import asked, drawn
from erasediff.auditing.finding import Finding
from erasediff.errors import BadInput
from erasediff.families.base import Condition, Model
from erasediff.families.samples import at_once, each

CHUNK = 32
FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True, kw_only=True)
class GradientMembership:
    """Score at most ``images`` forgotten and held-out images each by minus the norm of their gradients.

    ``draws``: time steps, evenly spread. Raises BadInput for fewer than six images, or no draw.
    """

    images: int = 150
    draws: int = 4

    name: ClassVar[str] = "gradient_membership"
    SUMMARY: ClassVar[str] = "tell forgotten from held-out images by the norm of their gradients (white box)"
    PAPER: ClassVar[str] = "arXiv:2308.06405"
    SUBJECTS: ClassVar[tuple[str, ...]] = (*FORGETFUL, BASE)

    def __post_init__(self) -> None:
        if self.images < FEWEST_SAMPLES or self.draws < 1:
            given = f"{self.images} and {self.draws}"
            raise BadInput(f"{self.name} needs at least {FEWEST_SAMPLES} images and one draw; got {given}")

    def refusal(self, scene: Scene) -> str | None:
        return needs_images(scene)

    def cost(self, scene: Scene) -> int:
        return FORWARD_AND_BACKWARD * self.draws * sum(map(len, chosen(scene.question, self.images)))

    def run(self, scene: Scene) -> list[Finding]:
        members, others = (self._scored(scene, rows) for rows in chosen(scene.question, self.images))
        return told_apart(scene, members, others, attack=self.name, kind="gradient_norm", budget=asdict(self))

    def _scored(self, scene: Scene, rows: Tensor) -> NDArray[np.float64]:
        question, scores = scene.question, []
        for some in rows.split(CHUNK):
            images, labels = of(question, some)
            scores.append(-gradient_norms(scene.model, images, labels, draws=self.draws, seed=question.seed))
            question.tick(len(some) * self.draws * FORWARD_AND_BACKWARD)
        return np.concatenate(scores)


def gradient_norms(
    model: Model, images: Tensor, labels: Tensor | None, *, draws: int, seed: int
) -> NDArray[np.float64]:
    """Euclidean norm [N] of each image's gradient of the denoising loss, over all weights, mean over ``draws``.

    ``images``: [N, C, H, W] in [-1, 1]; ``labels``: [N], or ``None`` for an unconditional model.
    """
    denoiser = differentiable(model)
    weights = {name: p.detach() for name, p in denoiser.named_parameters()}
    rows = at_once(weights.values(), CHUNK)

    def loss(weights: dict[str, Tensor], x_t: Tensor, t: Tensor, target: Tensor, c: Condition) -> Tensor:
        return losses(model, denoiser, weights, x_t[None], t[None], target[None], None if c is None else c[None])[0]

    norms = []
    for x_0, condition in asked(model, images, labels, rows):
        one_by_one = each(model, grad(loss), (None, 0, 0, 0, None if condition is None else 0))
        total = torch.zeros(len(x_0), dtype=torch.float64)
        for noisy in drawn(model, x_0, draws, seed=seed, purpose="membership/gradients"):
            # Fused attention cannot be mapped over samples; the plain formula can.
            with sdpa_kernel(SDPBackend.MATH):
                found = one_by_one(weights, noisy.x_t, noisy.t, model.noising.target(noisy), condition)
            total += sum(g.double().flatten(1).square().sum(1) for g in found.values()).sqrt().cpu()
        norms.append(total / draws)
    return np.asarray(torch.cat(norms).numpy())


def differentiable(model: Model) -> nn.Module:
    """A copy of the denoiser as in sampling, without what :mod:`torch.func` cannot pass through."""
    denoiser = copy.deepcopy(model.denoiser).eval()
    if getattr(denoiser, "is_gradient_checkpointing", False):
        denoiser.disable_gradient_checkpointing()  # type: ignore[operator]
    return denoiser


def losses(
    model: Model,
    denoiser: nn.Module,
    weights: dict[str, Tensor],
    x_t: Tensor,
    t: Tensor,
    target: Tensor,
    condition: Condition,
) -> Tensor:
    """Denoising loss [B] of each sample of ``x_t`` [B, C, H, W], as a function of ``weights``, by parameter name."""

    def called(*given: object, **options: object) -> object:
        return functional_call(denoiser, weights, given, options)

    prediction = model.ask(called, x_t, t, condition)  # type: ignore[arg-type]
    return (prediction - target).square().flatten(1).mean(1)
