"""Rebuild forgotten images: how well does the best start noise, with a free condition, make the model draw them?

The image is taken back to noise by deterministic DDIM (Song et al. 2020, arXiv:2010.02502, eq. 12 with sigma = 0, run
backwards), and the noise and one embedding an image are then fitted through a few such steps, as null-text inversion
fits the null embedding (Mokady et al. 2022, arXiv:2211.09794). With enough freedom a model rebuilds images that it
never saw as well: what tells is the difference between forgotten images and held-out ones like them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from erasediff.auditing.attacks.base import FEWEST_SAMPLES, FORGETFUL, Scene, needs
from erasediff.auditing.finding import Evidence, Finding, rows_of
from erasediff.auditing.result import Measurement
from erasediff.auditing.statistics import auc_interval, bootstrap_mean
from erasediff.errors import BadInput
from erasediff.families.base import Condition, Model
from erasediff.randomness import generator

TOGETHER = 32  # images fitted at once: the activations of all steps are held
SMALLEST_ERROR = 1e-10  # 106 dB: an exact copy has no finite PSNR

Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Rebuild up to ``images`` forgotten and held-out images through ``steps`` steps, by ``iterations`` of Adam."""

    images: int = 12
    steps: int = 8
    iterations: int = 30
    learning_rate: float = 0.05

    name: ClassVar[str] = "inversion"
    SUMMARY: ClassVar[str] = "fit start noise and condition to rebuild forgotten images, compared with held-out ones"
    PAPER: ClassVar[str] = "arXiv:2211.09794"
    SUBJECTS: ClassVar[tuple[str, ...]] = FORGETFUL

    def __post_init__(self) -> None:
        if self.images < FEWEST_SAMPLES or self.steps < 1 or self.iterations < 0:
            raise BadInput(
                f"images must be at least {FEWEST_SAMPLES}, steps at least 1, iterations at least 0; got {asdict(self)}"
            )

    def refusal(self, scene: Scene) -> str | None:
        """No held-out images like the forget set, or too few of either."""
        return needs(scene, held_out=True, enough=True)

    def cost(self, scene: Scene) -> int:
        """Each iteration goes forward and backward through all steps; the start and the last score forward only."""
        count = sum(min(self.images, len(pool)) for pool in (scene.question.distinct, scene.question.held_out))
        return count * self.steps * (2 + 3 * self.iterations)

    def run(self, scene: Scene) -> list[Finding]:
        """``inversion_psnr``: of forgotten images; ``inversion_auc``: how well it tells them from held-out ones."""
        question = scene.question
        (before, forgotten), (before_held, held_out) = (
            self._rebuilt(scene, pool, kind)
            for kind, pool in (("forgotten", question.distinct), ("held_out", question.held_out))
        )
        detail = asdict(self) | {
            "psnr_start": {"forgotten": before.tolist(), "held_out": before_held.tolist()},
            "psnr": {"forgotten": forgotten.tolist(), "held_out": held_out.tolist()},
            "free_condition": bool(scene.model.class_tables(scene.model.denoiser)),
            "seed": question.seed,
        }
        auc = told_apart(forgotten, held_out)
        rows = rows_of(forgotten, held_out)
        # Of a dozen images the AUC is too unsteady to show equality with.
        evidence = Evidence(attack=self.name, role="trace", rows=rows, statistic="auc", margin=0.2, needed=False)
        bounds = bootstrap_mean(forgotten, seed=question.seed)
        n = len(forgotten)
        found = [
            ("inversion_psnr", float(forgotten.mean()), bounds, None),
            ("inversion_auc", auc, auc_interval(forgotten, held_out), evidence),
        ]
        return [
            Finding(
                Measurement(
                    name=name,
                    group="inversion",
                    subject=scene.subject,
                    value=value,
                    low=interval[0],
                    high=interval[1],
                    n=n,
                    higher_is_better=False,
                    detail=dict(detail),
                ),
                behind,
            )
            for name, value, interval, behind in found
        ]

    def _rebuilt(self, scene: Scene, pool: Tensor, kind: str) -> tuple[Scores, Scores]:
        """PSNR [N] of images of ``pool``, as they start and at their best; the same images for every model."""
        question = scene.question
        order = torch.randperm(len(pool), generator=generator(question.seed, 0, f"{self.name}/{kind}"))
        chosen = pool[order[: self.images]]
        labels = question.data.labels
        scores = [
            rebuild(
                scene.model,
                question.data.floats(some),
                None if labels is None else labels[some],
                steps=self.steps,
                iterations=self.iterations,
                learning_rate=self.learning_rate,
                tick=question.tick,
            )
            for some in chosen.split(TOGETHER)
        ]
        return np.concatenate([start for start, _ in scores]), np.concatenate([best for _, best in scores])


def rebuild(
    model: Model,
    images: Tensor,
    labels: Tensor | None,
    *,
    steps: int,
    iterations: int,
    learning_rate: float,
    tick: Callable[[int], object] = lambda count: None,
) -> tuple[Scores, Scores]:
    """Fit noise, and where there are class tables one row of them, to each of ``images`` [N, C, H, W] in [-1, 1].

    Returns:
        PSNR [N] in dB of the reconstruction from the inverted image, and the best one on the way.
    """
    pupil = copy.deepcopy(model.denoiser).eval().requires_grad_(False)
    device = next(pupil.parameters()).device
    images = images.to(device)
    condition, rows = free_condition(model, pupil, len(images), None if labels is None else labels.to(device))
    with torch.no_grad():
        x_0 = model.encode(images)
        noise = inverted(model, pupil, x_0, condition, steps).requires_grad_(True)
    tick(len(images) * steps)
    optimizer = torch.optim.Adam([noise, *rows], lr=learning_rate)
    scores = []
    for _ in range(iterations):
        optimizer.zero_grad(set_to_none=True)
        drawn = denoised(model, pupil, noise, condition, steps)
        # A sum over images: each is fitted as if it were alone.
        (drawn - x_0).square().flatten(1).mean(1).sum().backward()
        optimizer.step()
        scores.append(psnr(model.decode(drawn.detach()), images))
        tick(len(images) * steps * 3)
    with torch.no_grad():
        scores.append(psnr(model.decode(denoised(model, pupil, noise, condition, steps)), images))
    tick(len(images) * steps)
    return scores[0], np.fmax.reduce(scores)  # an iteration that overflowed counts for nothing


def free_condition(
    model: Model, denoiser: nn.Module, count: int, labels: Tensor | None
) -> tuple[Condition, list[Tensor]]:
    """Lengthen the class tables of ``denoiser``, a copy, by a row for each image.

    The new rows begin as the null row, or as each image's own where there is none. Returns the labels [count] that ask
    for them and the tables that may change; without tables the condition is the ordinary one.
    """
    conditions, tables = model.conditions, model.class_tables(denoiser)
    if not conditions.num_classes:
        return None, []
    begun = conditions.own(labels) if conditions.null_label is None else _null(conditions.null_label, count, denoiser)
    if not tables or begun is None:
        return begun, []
    asked = len(tables[0].weight) + torch.arange(count, device=begun.device)
    for table in tables:
        longer = torch.cat([table.weight.detach(), table.weight.detach()[begun]])
        table.weight, table.num_embeddings = nn.Parameter(longer), len(longer)
    return asked, [table.weight for table in tables]


def _null(label: int, count: int, denoiser: nn.Module) -> Tensor:
    return torch.full((count,), label, device=next(denoiser.parameters()).device)


def grid(model: Model, steps: int) -> list[int]:
    """``steps`` rising timesteps, each in the middle of its share of T: at the very ends a prediction of the noise says
    nothing of x_0, or one of x_0 nothing of the noise."""
    return [int((i + 0.5) / steps * model.noising.num_train_timesteps) for i in range(steps)]


def inverted(model: Model, denoiser: nn.Module, x_0: Tensor, condition: Condition, steps: int) -> Tensor:
    """Noise [B, C, H, W] at the last step of the grid from which DDIM comes back near ``x_0``.

    The image without noise stands for the unknown one at the first step.
    """
    rising = grid(model, steps)
    signal, sigma = _levels(model, x_0, rising[0])
    _, noise = _split(model, denoiser, signal * x_0, rising[0], condition)
    x = signal * x_0 + sigma * noise
    for now, later in pairwise(rising):
        clean, noise = _split(model, denoiser, x, now, condition)
        signal, sigma = _levels(model, x_0, later)
        x = signal * clean + sigma * noise
    return x


def denoised(model: Model, denoiser: nn.Module, x: Tensor, condition: Condition, steps: int) -> Tensor:
    """``x_0`` [B, C, H, W] by deterministic DDIM from ``x`` at the last step of the grid; differentiable."""
    falling = grid(model, steps)[::-1]
    clean, noise = _split(model, denoiser, x, falling[0], condition)
    for t in falling[1:]:
        signal, sigma = _levels(model, x, t)
        clean, noise = _split(model, denoiser, signal * clean + sigma * noise, t, condition)
    return clean


def psnr(drawn: Tensor, wanted: Tensor) -> Scores:
    """Peak signal-to-noise ratio [N] in dB of images in [-1, 1], whose peak is 2."""
    error = (drawn - wanted).square().flatten(1).double().mean(1).clamp_min(SMALLEST_ERROR)
    return np.asarray((10 * torch.log10(4 / error)).cpu().numpy())


def told_apart(forgotten: Scores, held_out: Scores) -> float:
    """AUC with which a high PSNR tells forgotten images from held-out ones."""
    truth = np.concatenate([np.ones(len(forgotten)), np.zeros(len(held_out))])
    return float(roc_auc_score(truth, np.concatenate([forgotten, held_out])))


def _levels(model: Model, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
    noisy = model.noising.noised(x, x, _steps(x, t))
    return noisy.signal, noisy.sigma


def _split(model: Model, denoiser: nn.Module, x: Tensor, t: int, condition: Condition) -> tuple[Tensor, Tensor]:
    """What the model takes ``x`` at step ``t`` to be made of: x_0 and noise."""
    noisy = replace(model.noising.noised(x, x, _steps(x, t)), x_t=x)
    prediction = model.ask(denoiser, x, noisy.t, condition).float()
    return model.noising.implied_x_0(prediction, noisy), model.noising.implied_noise(prediction, noisy)


def _steps(x: Tensor, t: int) -> Tensor:
    return torch.full((len(x),), t, device=x.device)
