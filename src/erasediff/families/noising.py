"""How a model is noised: one face over diffusers' variance-preserving schedulers.

``x_t = signal x_0 + sigma noise`` with ``signal^2 = alphas_cumprod[t]`` (Ho et al. 2020, arXiv:2006.11239, eq. 4).
What the denoiser predicts is one of three linear views of the same thing (Salimans and Ho 2022, arXiv:2202.00512):
``epsilon = noise``, ``sample = x_0``, ``v_prediction = signal noise - sigma x_0``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from erasediff.errors import unknown
from erasediff.families.base import Noisy


@dataclass(frozen=True)
class View:
    """One prediction type: its target, the noise that a prediction implies, and how that noise is weighed.

    ``noise_weight`` keeps the squared error of the implied noise finite at every t: a model of ``x_0`` implies the
    noise ``(x_t - signal x_0) / sigma``, whose error grows without bound as sigma -> 0, so it is weighed by sigma^2.
    """

    target: Callable[[Noisy, Tensor], Tensor]
    implied_noise: Callable[[Tensor, Noisy], Tensor]
    noise_weight: Callable[[Noisy], Tensor]


def _one(noisy: Noisy) -> Tensor:
    return torch.ones_like(noisy.sigma)


VIEWS = {
    "epsilon": View(
        target=lambda noisy, noise: noise,
        implied_noise=lambda prediction, noisy: prediction,
        noise_weight=_one,
    ),
    "v_prediction": View(
        target=lambda noisy, noise: noisy.signal * noise - noisy.sigma * noisy.x_0,
        implied_noise=lambda prediction, noisy: noisy.sigma * noisy.x_t + noisy.signal * prediction,
        noise_weight=_one,
    ),
    "sample": View(
        target=lambda noisy, noise: noisy.x_0,
        implied_noise=lambda prediction, noisy: (noisy.x_t - noisy.signal * prediction) / noisy.sigma,
        noise_weight=lambda noisy: noisy.sigma**2,
    ),
}


@dataclass
class Noising:
    """The scheduler's table of coefficients, and the view of its prediction type."""

    alphas_cumprod: Tensor
    prediction_type: str
    _moved: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.prediction_type not in VIEWS:
            raise unknown("prediction type", self.prediction_type, VIEWS)

    @classmethod
    def of(cls, scheduler: Any) -> Noising:
        """Read the table of a diffusers scheduler that has ``alphas_cumprod``."""
        return cls(scheduler.alphas_cumprod, scheduler.config.prediction_type)

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def noised(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Noisy:
        """Noise ``x_0`` [B, ...] at the steps ``t`` [B]."""
        if x_0.device not in self._moved:
            self._moved[x_0.device] = self.alphas_cumprod.to(x_0.device, torch.float32)
        share = self._moved[x_0.device][t].reshape(-1, *[1] * (x_0.dim() - 1))
        signal, sigma = share.sqrt(), (1 - share).sqrt()
        return Noisy(x_0, noise, t, signal * x_0 + sigma * noise, signal, sigma)

    def target(self, noisy: Noisy, noise: Tensor | None = None) -> Tensor:
        """What the denoiser should say if the noise had been ``noise`` (default: the noise that was drawn)."""
        return VIEWS[self.prediction_type].target(noisy, noisy.noise if noise is None else noise)

    def implied_noise(self, prediction: Tensor, noisy: Noisy) -> Tensor:
        """The noise [B, ...] that ``prediction`` amounts to at ``x_t``."""
        return VIEWS[self.prediction_type].implied_noise(prediction, noisy)

    def noise_weight(self, noisy: Noisy) -> Tensor:
        """Weight [B, 1, 1, 1] under which the squared error of the implied noise stays finite at every t."""
        return VIEWS[self.prediction_type].noise_weight(noisy)
