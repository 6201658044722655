"""Membership scores: one number for each image from a few questions to the denoiser; higher means "was trained on".

- ``loss``: the denoising loss (Yeom et al. 2018, arXiv:1709.01604; on diffusion models Matsumoto et al. 2023,
  arXiv:2302.03262).
- ``pia``: proximal initialisation (Kong et al. 2023, arXiv:2305.18355): how far the noise predicted at ``x_t`` lies
  from the noise predicted at ``x_0``, where that very noise leads from ``x_0`` to ``x_t``.
- ``secmi``: the t-error (Duan et al. 2023, arXiv:2302.01316): what one deterministic step on and back loses of ``x_t``.
- ``sima``: the norm of the noise predicted at the clean image (Rao et al. 2025, arXiv:2509.25003).

Every prediction type is read as the noise that it implies. Time steps are fractions of ``num_train_timesteps``.
A model that has memorised a handful of images can turn ``pia`` and ``secmi`` round at later time steps (members
score lower): paths of strangers then lead straight to one of the handful. That tells members from others too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erasediff.families.base import Condition, Model, Noisy
from erasediff.randomness import generator

DRAWS = 16  # time steps of the loss, evenly spread, each with a noise of its own that all images share
BATCH = 256
AT = (0.05, 0.1)  # the papers take 0.1 to 0.2; small models tell more, and in the right direction, early
STRIDE = 0.01  # of the walk of ``secmi``; the paper's 10 of 1000 steps
NORM = 4
SMALLEST = 1e-3  # weight below which an implied noise is mostly the error of the prediction, blown up


class Score(Protocol):
    """Images [N, C, H, W] in [-1, 1] and labels [N] (``None``: unconditional model) to float64 scores [N]."""

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor | None, *, seed: int, at: Sequence[float]
    ) -> NDArray[np.float64]: ...


@torch.no_grad()
def denoising_losses(model: Model, images: Tensor, labels: Tensor | None, *, seed: int) -> NDArray[np.float64]:
    """Mean denoising loss of each image [N], over ``DRAWS`` time steps and noises that are the same for every image.

    ``images``: [N, C, H, W] in [-1, 1]; ``labels``: [N], or ``None`` for an unconditional model.
    """
    losses = []
    for x_0, condition in asked(model, images, labels):
        total = torch.zeros(len(x_0), dtype=torch.float64)
        for noisy in drawn(model, x_0, DRAWS, seed=seed, purpose="membership"):
            prediction = model.ask(model.denoiser, noisy.x_t, noisy.t, condition).float()
            difference = prediction - model.noising.target(noisy)
            total += difference.square().flatten(1).mean(1).double().cpu()
        losses.append(total / DRAWS)
    return np.asarray(torch.cat(losses).numpy())


def loss(model: Model, images: Tensor, labels: Tensor | None, *, seed: int) -> NDArray[np.float64]:
    """Minus the mean denoising loss [N] of ``images`` [N, C, H, W] in [-1, 1]."""
    return -denoising_losses(model, images, labels, seed=seed)


@torch.no_grad()
def pia(
    model: Model,
    images: Tensor,
    labels: Tensor | None,
    *,
    seed: int,  # noqa: ARG001 - nothing is drawn
    at: Sequence[float] = AT,
) -> NDArray[np.float64]:
    """Minus the l_4 distance [N] between the noises predicted at ``x_0`` and at ``x_t``, mean over ``at``.

    ``images``: [N, C, H, W] in [-1, 1]; ``labels``: [N], or ``None`` for an unconditional model.
    """
    scores = []
    for x_0, condition in asked(model, images, labels):
        proximal, _ = _noise(model, x_0, _first(model), condition)
        total = torch.zeros(len(x_0), dtype=torch.float64)
        for t in (_step(model, fraction) for fraction in at):
            x_t = model.noising.noised(x_0, proximal, _all(x_0, t)).x_t
            predicted, weight = _noise(model, x_t, t, condition)
            total += _length((predicted - proximal) * weight.sqrt())
        scores.append(-total / len(at))
    return np.asarray(torch.cat(scores).numpy())


@torch.no_grad()
def sima(
    model: Model,
    images: Tensor,
    labels: Tensor | None,
    *,
    seed: int,  # noqa: ARG001 - nothing is drawn
    at: Sequence[float] = AT,
) -> NDArray[np.float64]:
    """Minus the l_4 norm [N] of the noise predicted at the clean image as if it were ``x_t``, mean over ``at``.

    ``images``: [N, C, H, W] in [-1, 1]; ``labels``: [N], or ``None`` for an unconditional model.
    """
    scores = []
    for x_0, condition in asked(model, images, labels):
        total = torch.zeros(len(x_0), dtype=torch.float64)
        for t in (_step(model, fraction) for fraction in at):
            predicted, weight = _noise(model, x_0, t, condition)
            total += _length(predicted * weight.sqrt())
        scores.append(-total / len(at))
    return np.asarray(torch.cat(scores).numpy())


@torch.no_grad()
def secmi(
    model: Model,
    images: Tensor,
    labels: Tensor | None,
    *,
    seed: int,  # noqa: ARG001 - nothing is drawn
    at: Sequence[float] = AT,
) -> NDArray[np.float64]:
    """Minus the t-error [N]: squared distance between ``x_t`` and itself after a step on and back, mean over ``at``.

    One walk from ``x_0`` serves every time of ``at``: the step on is the walk's own next step.
    ``images``: [N, C, H, W] in [-1, 1]; ``labels``: [N], or ``None`` for an unconditional model.
    """
    path, marks = _walk(model, at)
    scores = []
    for x_0, condition in asked(model, images, labels):
        total = torch.zeros(len(x_0), dtype=torch.float64)
        x, noise = x_0, _noise(model, x_0, path[0], condition)[0]
        for i, (t, after) in enumerate(pairwise(path)):
            onward = _moved(model, x, noise, t, after)
            further = _noise(model, onward, after, condition)[0]
            if i in marks:
                back = _moved(model, onward, further, after, t)
                total += marks.count(i) * (back - x).square().flatten(1).sum(1).double().cpu()
            x, noise = onward, further
        scores.append(-total / len(marks))
    return np.asarray(torch.cat(scores).numpy())


SCORES: Mapping[str, Score] = {
    "loss": lambda model, images, labels, *, seed, at: loss(model, images, labels, seed=seed),
    "pia": pia,
    "secmi": secmi,
    "sima": sima,
}
QUERIES: Mapping[str, Callable[[Model, Sequence[float]], int]] = {
    "loss": lambda model, at: DRAWS,
    "pia": lambda model, at: 1 + len(at),
    "secmi": lambda model, at: len(_walk(model, at)[0]),
    "sima": lambda model, at: len(at),
}
"""How often each score asks the denoiser about one image."""


def asked(
    model: Model, images: Tensor, labels: Tensor | None, batch: int = BATCH
) -> Iterator[tuple[Tensor, Condition]]:
    """Batches of ``x_0`` [B, C, H, W] and each image's own condition, on the denoiser's device; no dropout."""
    device = next(model.denoiser.parameters()).device
    model.denoiser.eval()
    for first in range(0, len(images), batch):
        rows = slice(first, first + batch)
        yield (
            model.encode(images[rows].to(device)),
            model.conditions.own(None if labels is None else labels[rows].to(device)),
        )


def drawn(model: Model, x_0: Tensor, draws: int, *, seed: int, purpose: str) -> Iterator[Noisy]:
    """``x_0`` [B, C, H, W] noised at ``draws`` evenly spread time steps, each with one noise for all images."""
    for draw in range(draws):
        t = int((draw + 0.5) / draws * model.noising.num_train_timesteps)
        noise = torch.randn(x_0.shape[1:], generator=generator(seed, draw, purpose)).to(x_0.device)
        yield model.noising.noised(x_0, noise.expand_as(x_0), _all(x_0, t))


def _noise(model: Model, x_t: Tensor, t: int, condition: Condition) -> tuple[Tensor, Tensor]:
    """The noise that the model sees in ``x_t`` [B, C, H, W], and the weight [B, 1, 1, 1] of its squared error."""
    noisy = _coefficients(model, x_t, t)
    prediction = model.ask(model.denoiser, x_t, noisy.t, condition).float()
    return model.noising.implied_noise(prediction, noisy), model.noising.noise_weight(noisy)


def _moved(model: Model, x: Tensor, noise: Tensor, t: int, to: int) -> Tensor:
    """The deterministic step from ``t`` to another time step (Song et al. 2021, arXiv:2010.02502, eq. 12, sigma 0)."""
    here, there = _coefficients(model, x, t), _coefficients(model, x, to)
    return there.signal * (x - here.sigma * noise) / here.signal + there.sigma * noise


def _coefficients(model: Model, x_t: Tensor, t: int) -> Noisy:
    noised = model.noising.noised(x_t, torch.zeros_like(x_t), _all(x_t, t))
    return replace(noised, x_t=x_t)


def _all(x: Tensor, t: int) -> Tensor:
    return torch.full((len(x),), t, device=x.device)


def _length(difference: Tensor) -> Tensor:
    return torch.linalg.vector_norm(difference.double().flatten(1), ord=NORM, dim=1).cpu()


def _step(model: Model, fraction: float) -> int:
    return max(int(fraction * model.noising.num_train_timesteps), _first(model))


def _first(model: Model) -> int:
    """The smallest usable time step: 0, but later for a model of ``x_0``, which says nothing of the noise there."""
    steps = torch.arange(model.noising.num_train_timesteps)
    nothing = torch.zeros(len(steps), 1, 1, 1)
    weight = model.noising.noise_weight(model.noising.noised(nothing, nothing, steps)).flatten()
    return int((weight >= SMALLEST).int().argmax())


def _walk(model: Model, at: Sequence[float]) -> tuple[list[int], list[int]]:
    """Time steps from the first to one stride past the last of ``at``, and where on that path ``at`` lies."""
    first = _first(model)
    stride = max(1, round(STRIDE * model.noising.num_train_timesteps))
    marks = [max(1, round((_step(model, fraction) - first) / stride)) for fraction in at]
    return [first + stride * i for i in range(max(marks) + 2)], marks
