"""How a model is noised: one face over diffusers' variance-preserving and flow-matching schedulers.

``x_t = signal x_0 + sigma noise``. Variance preserving: ``signal^2 = alphas_cumprod[t] = 1 - sigma^2`` (Ho et al. 2020,
arXiv:2006.11239, eq. 4). What the denoiser predicts is one of three linear views of the same thing (Salimans and Ho
2022, arXiv:2202.00512): ``epsilon = noise``, ``sample = x_0``, ``v_prediction = signal noise - sigma x_0``.

Flow matching: ``signal = 1 - sigma``, a straight line from the image to the noise, and what is predicted is its
direction ``flow = noise - x_0`` (Lipman et al. 2022, arXiv:2210.02747, eq. 22 and 23, with time the other way round;
Esser et al. 2024, arXiv:2403.03206, eq. 13).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from erasediff.errors import BadInput, unknown
from erasediff.families.base import Noisy


@dataclass(frozen=True)
class View:
    """One prediction type: its target, the noise and ``x_0`` that a prediction implies, and how that noise is weighed.

    ``noise_weight`` keeps the squared error of the implied noise finite at every t: a model of ``x_0`` implies the
    noise ``(x_t - signal x_0) / sigma``, whose error grows without bound as sigma -> 0, so it is weighed by sigma^2.
    """

    target: Callable[[Noisy, Tensor], Tensor]
    implied_noise: Callable[[Tensor, Noisy], Tensor]
    implied_x_0: Callable[[Tensor, Noisy], Tensor]
    noise_weight: Callable[[Noisy], Tensor]


def _one(noisy: Noisy) -> Tensor:
    return torch.ones_like(noisy.sigma)


VIEWS = {
    "epsilon": View(
        target=lambda noisy, noise: noise,
        implied_noise=lambda prediction, noisy: prediction,
        implied_x_0=lambda prediction, noisy: (noisy.x_t - noisy.sigma * prediction) / noisy.signal,
        noise_weight=_one,
    ),
    "v_prediction": View(
        target=lambda noisy, noise: noisy.signal * noise - noisy.sigma * noisy.x_0,
        implied_noise=lambda prediction, noisy: noisy.sigma * noisy.x_t + noisy.signal * prediction,
        implied_x_0=lambda prediction, noisy: noisy.signal * noisy.x_t - noisy.sigma * prediction,
        noise_weight=_one,
    ),
    "sample": View(
        target=lambda noisy, noise: noisy.x_0,
        implied_noise=lambda prediction, noisy: (noisy.x_t - noisy.signal * prediction) / noisy.sigma,
        implied_x_0=lambda prediction, noisy: prediction,
        noise_weight=lambda noisy: noisy.sigma**2,
    ),
}


# Both errors are at most that of the prediction: (1 - sigma) and sigma times it.
FLOW = View(
    target=lambda noisy, noise: noise - noisy.x_0,
    implied_noise=lambda prediction, noisy: noisy.x_t + noisy.signal * prediction,
    implied_x_0=lambda prediction, noisy: noisy.x_t - noisy.sigma * prediction,
    noise_weight=_one,
)


class Viewed:
    """What both kinds of noising say through the view of their prediction type."""

    VIEWS: ClassVar[Mapping[str, View]]
    prediction_type: str

    def __post_init__(self) -> None:
        if self.prediction_type not in self.VIEWS:
            raise unknown("prediction type", self.prediction_type, self.VIEWS)

    def target(self, noisy: Noisy, noise: Tensor | None = None) -> Tensor:
        """What the denoiser should say if the noise had been ``noise`` (default: the noise that was drawn)."""
        return self.VIEWS[self.prediction_type].target(noisy, noisy.noise if noise is None else noise)

    def implied_noise(self, prediction: Tensor, noisy: Noisy) -> Tensor:
        """The noise [B, ...] that ``prediction`` amounts to at ``x_t``."""
        return self.VIEWS[self.prediction_type].implied_noise(prediction, noisy)

    def implied_x_0(self, prediction: Tensor, noisy: Noisy) -> Tensor:
        """The ``x_0`` [B, ...] that ``prediction`` amounts to at ``x_t``."""
        return self.VIEWS[self.prediction_type].implied_x_0(prediction, noisy)

    def noise_weight(self, noisy: Noisy) -> Tensor:
        """Weight [B, 1, 1, 1] under which the squared error of the implied noise stays finite at every t."""
        return self.VIEWS[self.prediction_type].noise_weight(noisy)


@dataclass
class Noising(Viewed):
    """A variance-preserving scheduler's table of coefficients, and the view of its prediction type."""

    alphas_cumprod: Tensor
    prediction_type: str
    _moved: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    VIEWS: ClassVar[Mapping[str, View]] = VIEWS

    @classmethod
    def of(cls, scheduler: Any) -> Noising:
        """Read the table of a diffusers scheduler. Raises BadInput for one without ``alphas_cumprod``."""
        if not hasattr(scheduler, "alphas_cumprod"):
            name = type(scheduler).__name__
            raise BadInput(f"scheduler {name} has no alphas_cumprod; use a DDPM, DDIM, PNDM or Euler scheduler")
        return cls(scheduler.alphas_cumprod, scheduler.config.prediction_type)

    @property
    def table(self) -> Tensor:
        """What tells two noisings of one prediction type apart."""
        return self.alphas_cumprod

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def noised(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Noisy:
        """Noise ``x_0`` [B, ...] at the steps ``t`` [B]."""
        share = _lookup(self.alphas_cumprod, t, x_0, self._moved)
        signal, sigma = share.sqrt(), (1 - share).sqrt()
        return Noisy(x_0, noise, t, signal * x_0 + sigma * noise, signal, sigma)

    def timesteps(self, t: Tensor) -> Tensor:
        """The timesteps [B] that the denoiser takes: the steps themselves."""
        return t


@dataclass
class FlowNoising(Viewed):
    """The sigmas of a flow-matching scheduler, rising: step 0 is next to the image, the last one is noise alone.

    A step ``t`` of integers is a row of the table. A floating ``t`` is a timestep as a flow scheduler gives it while
    sampling: sigma times ``num_train_timesteps``, between the rows as a rule. Steps drawn uniformly are spread over
    sigma as the scheduler's shift spreads them (Esser et al. 2024, arXiv:2403.03206, eq. 23).
    """

    sigmas: Tensor
    prediction_type: str = "flow"
    _moved: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    VIEWS: ClassVar[Mapping[str, View]] = {"flow": FLOW}

    @classmethod
    def of(cls, scheduler: Any, *, mu: float = 0.0) -> FlowNoising:
        """Read the table of a diffusers flow-matching scheduler, whatever it was last set to draw.

        ``mu``: how far sigmas are shifted for the size of the images, where the scheduler shifts by it (see
        :func:`shift_for`). Raises BadInput for a scheduler that is none of flow matching, or whose time is inverted.
        """
        name, config = type(scheduler).__name__, scheduler.config
        if not name.startswith("FlowMatch"):
            raise BadInput(f"scheduler {name} is none of flow matching; use a FlowMatchEulerDiscreteScheduler")
        if config.get("invert_sigmas"):
            raise BadInput(f"scheduler {name} has invert_sigmas; read are schedulers whose sigma is the share of noise")
        if not config.get("use_dynamic_shifting"):
            return cls(type(scheduler).from_config(config).sigmas[: config.num_train_timesteps].flip(0))
        # What remains is the shift: the rest of the configuration chooses among few steps, and here are all.
        few = {"shift_terminal": None, **dict.fromkeys(("use_karras_sigmas", "use_beta_sigmas"), False)}
        fresh = type(scheduler).from_config(config, use_exponential_sigmas=False, **few)
        steps = config.num_train_timesteps
        fresh.set_timesteps(sigmas=torch.arange(steps, 0, -1).div(steps).tolist(), mu=mu)
        return cls(fresh.sigmas[:steps].flip(0))

    @property
    def table(self) -> Tensor:
        """What tells two noisings of one prediction type apart."""
        return self.sigmas

    @property
    def num_train_timesteps(self) -> int:
        return len(self.sigmas)

    def noised(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Noisy:
        """Noise ``x_0`` [B, ...] at the steps ``t`` [B]: rows of the table, or a sampler's own timesteps."""
        sigma = self._sigma(t, x_0)
        return Noisy(x_0, noise, t, (1 - sigma) * x_0 + sigma * noise, 1 - sigma, sigma)

    def timesteps(self, t: Tensor) -> Tensor:
        """The timesteps [B] that the denoiser takes: sigma times ``num_train_timesteps``, in float32."""
        return t if t.is_floating_point() else self._sigma(t, t) * len(self.sigmas)

    def _sigma(self, t: Tensor, like: Tensor) -> Tensor:
        if t.is_floating_point():
            return (t / len(self.sigmas)).reshape(-1, *[1] * (like.dim() - 1))
        return _lookup(self.sigmas, t, like, self._moved)


def shift_for(tokens: int, config: Mapping[str, Any], *, max_shift: float = 1.15) -> float:
    """``mu`` for images of so many tokens: the line through (base_image_seq_len, base_shift) and the maxima.

    Larger images hide their contents from the same noise less (Esser et al. 2024, arXiv:2403.03206, sec. 5.3.2).
    """
    least, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope = (high - low) / (most - least)
    return float(tokens * slope + (low - slope * least))


def _lookup(table: Tensor, t: Tensor, like: Tensor, moved: dict[torch.device, Tensor]) -> Tensor:
    """``table[t]`` [B, 1, ...] in float32, as many dimensions as ``like`` has, on its device (moved there once)."""
    if like.device not in moved:
        moved[like.device] = table.to(like.device, torch.float32)
    return moved[like.device][t].reshape(-1, *[1] * (like.dim() - 1))
