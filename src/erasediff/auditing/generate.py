"""Samples to be judged. Sample i of a kind starts from the same noise whatever the model, so that models are paired."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from erasediff.families.base import Model
from erasediff.families.sampling import sample
from erasediff.randomness import generator

BATCH = 250


def start_noise(model: Model, count: int, *, seed: int, kind: str, device: torch.device | str = "cpu") -> Tensor:
    """``x_T`` [count, C, H, W], a function of (seed, kind, position) alone; drawn on the CPU for every device."""
    shape = model.encode(torch.zeros(1, *model.image_shape)).shape[1:]
    return torch.randn(count, *shape, generator=generator(seed, 0, f"x_T/{kind}")).to(device)


def images(
    model: Model,
    labels: Tensor | None,
    count: int,
    *,
    seed: int,
    kind: str,
    guidance_scale: float,
    num_inference_steps: int,
    denoiser: nn.Module | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Draw ``count`` images [count, C, H, W] in [-1, 1] on the CPU.

    ``labels`` [count] are the classes asked for; ``None`` asks under the null condition, without guidance.
    """
    asked = model.denoiser if denoiser is None else denoiser
    device = next(asked.parameters()).device
    noise = start_noise(model, count, seed=seed, kind=kind, device=device)
    drawn = []
    for first in range(0, count, BATCH):
        rows = slice(first, first + BATCH)
        x_T = noise[rows]
        wanted = torch.zeros(len(x_T), dtype=torch.long, device=device) if labels is None else labels[rows].to(device)
        condition, null = _conditions(model, wanted, unconditional=labels is None)
        drawn.append(
            sample(
                model,
                x_T,
                condition,
                null,
                guidance_scale=1.0 if labels is None else guidance_scale,
                num_inference_steps=num_inference_steps,
                denoiser=asked,
            ).cpu()
        )
        if on_batch is not None:
            on_batch(len(x_T))
    return torch.cat(drawn)


def _conditions(model: Model, labels: Tensor, *, unconditional: bool) -> tuple[Tensor | None, Tensor | None]:
    conditions = model.conditions
    if not conditions.num_classes:
        return None, None
    if unconditional:
        return conditions.null(labels), None
    return conditions.own(labels), None if conditions.null_label is None else conditions.null(labels)
