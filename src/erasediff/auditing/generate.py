"""Samples to be judged. Sample i of a kind starts from the same noise whatever the model, so that models are paired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from erasediff.families.base import Model
from erasediff.families.precision import FULL
from erasediff.families.sampling import sample
from erasediff.randomness import generator

BATCH = 250


def start_noise(
    model: Model, count: int, *, seed: int, kind: str, device: torch.device | str = "cpu", sampling_seeds: int = 1
) -> Tensor:
    """``x_T`` [count, C, H, W], a function of (seed, kind, position) alone; drawn on the CPU for every device.

    ``sampling_seeds``: of how many streams, one after the other; :func:`runs_of` tells which rows are of which.
    """
    shape = model.encode(torch.zeros(1, *model.image_shape)).shape[1:]
    drawn = [
        torch.randn(rows.stop - rows.start, *shape, generator=generator(seed, stream, f"x_T/{kind}"))
        for stream, rows in enumerate(runs_of(count, sampling_seeds))
    ]
    return torch.cat(drawn).to(device)


def in_turn(classes: Sequence[int], count: int) -> Tensor:
    """What each of ``count`` samples is asked for [count]: the classes one after the other, over and over."""
    return torch.tensor(list(classes)).repeat(-(-count // len(classes)))[:count]


def runs_of(count: int, sampling_seeds: int) -> list[slice]:
    """The rows of each sampling seed among ``count`` samples: equally long runs, none of them empty."""
    streams = max(1, min(sampling_seeds, count))
    edges = [count * stream // streams for stream in range(streams + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]


def images(
    model: Model,
    labels: Tensor | None,
    count: int,
    *,
    seed: int,
    kind: str,
    guidance_scale: float,
    num_inference_steps: int,
    mixed_precision: str = FULL,
    sampling_seeds: int = 1,
    denoiser: nn.Module | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Draw ``count`` images [count, C, H, W] in [-1, 1] on the CPU.

    ``labels`` [count] are the classes asked for; ``None`` asks under the null condition, without guidance.
    """
    asked = model.denoiser if denoiser is None else denoiser
    device = next(asked.parameters()).device
    noise = start_noise(model, count, seed=seed, kind=kind, device=device, sampling_seeds=sampling_seeds)
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
                mixed_precision=mixed_precision,
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
