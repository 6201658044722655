"""Forgotten images, noised: what searches fit a condition to, the same images and noise for every model and start."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from erasediff.auditing.attacks.base import Scene
from erasediff.errors import BadInput
from erasediff.families.base import Noisy
from erasediff.randomness import generator


def noised(
    scene: Scene, denoiser: nn.Module, batch_size: int, *, step: int, purpose: str, classes: tuple[int, ...]
) -> tuple[Noisy, Tensor]:
    """``batch_size`` forgotten images of ``classes``, noised where ``denoiser`` is, and their labels [B].

    A function of (seed, step, purpose). Raises BadInput for data without labels.
    """
    question, model = scene.question, scene.model
    device = next(denoiser.parameters()).device
    labels = question.data.labels
    if labels is None:
        raise BadInput("the data has no labels: no image is known to show the class; give labelled data")
    drawn = generator(question.seed, step, purpose)
    of_target = question.forget[torch.isin(labels[question.forget], torch.tensor(classes))]
    chosen = of_target[torch.randint(len(of_target), (batch_size,), generator=drawn)]
    t = torch.randint(model.noising.num_train_timesteps, (batch_size,), generator=drawn)
    with torch.no_grad():
        x_0 = model.encode(question.data.floats(chosen).to(device))
    noise = torch.randn(x_0.shape, generator=drawn).to(device)
    return model.noising.noised(x_0, noise, t.to(device)), labels[chosen].to(device)
