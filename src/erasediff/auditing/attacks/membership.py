"""Membership inference by loss: what was trained on is denoised better than what was not.

The loss-threshold attack (Yeom et al. 2018, arXiv:1709.01604; on diffusion models Matsumoto et al. 2023,
arXiv:2302.03262). Success is not an AUC of 0.5 but that of a model retrained without the samples.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from erasediff.auditing.result import Measurement
from erasediff.auditing.statistics import resample_interval
from erasediff.errors import BadInput
from erasediff.families.base import Model
from erasediff.randomness import generator

DRAWS = 16  # time steps, evenly spread, each with a noise of its own that all images share
BATCH = 256
FALSE_POSITIVES = 0.01


@torch.no_grad()
def denoising_losses(model: Model, images: Tensor, labels: Tensor | None, *, seed: int) -> NDArray[np.float64]:
    """Mean denoising loss of each image [N], over ``DRAWS`` time steps and noises that are the same for every image.

    ``images``: [N, C, H, W] in [-1, 1]; ``labels``: [N], or ``None`` for an unconditional model.
    """
    device = next(model.denoiser.parameters()).device
    steps = model.noising.num_train_timesteps
    model.denoiser.eval()
    losses = []
    for first in range(0, len(images), BATCH):
        x_0 = model.encode(images[first : first + BATCH].to(device))
        condition = model.conditions.own(None if labels is None else labels[first : first + BATCH].to(device))
        total = torch.zeros(len(x_0), dtype=torch.float64)
        for draw in range(DRAWS):
            t = torch.full((len(x_0),), int((draw + 0.5) / DRAWS * steps), device=device)
            noise = torch.randn(x_0.shape[1:], generator=generator(seed, draw, "membership")).to(device)
            noisy = model.noising.noised(x_0, noise.expand_as(x_0), t)
            prediction = model.ask(model.denoiser, noisy.x_t, noisy.t, condition).float()
            difference = prediction - model.noising.target(noisy)
            total += difference.square().flatten(1).mean(1).double().cpu()
        losses.append(total / DRAWS)
    return np.asarray(torch.cat(losses).numpy())


def membership_measurements(
    members: NDArray[np.float64], others: NDArray[np.float64], *, subject: str, seed: int, resamples: int
) -> list[Measurement]:
    """``mia_auc_loss`` and ``mia_tpr_at_1fpr_loss``: how well a low loss tells the forget set from held-out data.

    Args:
        members: losses [N] of the samples that were to be forgotten; others: losses [M] of data never trained on.

    Raises:
        BadInput: nothing to compare.
    """
    if not len(members) or not len(others):
        raise BadInput(
            f"membership compares forgotten samples with held-out ones; got {len(members)} and {len(others)}"
        )
    found = []
    for name, statistic in (("mia_auc_loss", _auc), ("mia_tpr_at_1fpr_loss", _true_positives)):
        value = statistic(members, others)
        low, high = resample_interval(statistic, [members, others], resamples=resamples, seed=seed, value=value)
        found.append(
            Measurement(
                name=name,
                group="membership",
                subject=subject,
                value=value,
                low=max(low, 0.0),
                high=min(high, 1.0),
                n=len(members),
                higher_is_better=False,
                detail={"held_out": len(others), "draws": DRAWS},
            )
        )
    return found


def _labelled(members: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    return np.concatenate([np.ones(len(members)), np.zeros(len(others))]), -np.concatenate([members, others])


def _auc(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    return float(roc_auc_score(*_labelled(members, others)))


def _true_positives(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The largest share of members caught at a threshold that at most 1 % of the others pass."""
    false, true, _ = roc_curve(*_labelled(members, others))
    return float(true[false <= FALSE_POSITIVES].max())
