"""What a method may have drawn during a step: whole images of theta_0, and half-denoised ones of theta. No graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from erasediff.data.pairs import Batch
from erasediff.errors import BadInput, listing
from erasediff.families.base import Condition, Noisy
from erasediff.families.sampling import sample, steps_at, trajectory
from erasediff.randomness import place_of_step

if TYPE_CHECKING:
    from erasediff.training.context import Context


def images(ctx: Context, x_T: Tensor, labels: Tensor | None, guidance_scale: float, num_inference_steps: int) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] that theta_0 makes of the noise ``x_T`` [N, ...] under ``labels`` [N]."""
    if ctx.teacher is None:
        raise BadInput("this method draws from the frozen model but does not declare needs.frozen")
    conditions = ctx.model.conditions
    wanted = None if labels is None else conditions.own(labels.to(x_T.device))
    null = conditions.null(wanted) if wanted is not None and guidance_scale != 1.0 else None
    drawn = [
        sample(
            ctx.model,
            x_T[rows],
            None if wanted is None else wanted[rows],
            None if null is None else null[rows],
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            denoiser=ctx.teacher,
        )
        for rows in torch.arange(len(x_T), device=x_T.device).split(ctx.micro_batch)
    ]
    ctx.spent += len(x_T) * num_inference_steps * (1 if null is None else 2)
    return torch.cat(drawn)


def until(
    ctx: Context,
    batch: Batch,
    x_T: Tensor,
    condition: Condition,
    t: float | None,
    guidance_scale: float,
    num_inference_steps: int,
) -> Noisy:
    """What theta makes of ``x_T`` [b, ...] by the time step ``t``; see :meth:`StepContext.sample_to`."""
    timesteps = ctx.model.sampler(num_inference_steps).timesteps
    times = timesteps.tolist()
    if t is not None and t not in times:
        raise BadInput(f"the sampler does not stop at t = {t}; its time steps are {listing(times)}")
    # Without replacement: every noise level comes equally often, and what a run costs is known beforehand.
    stop = place_of_step(ctx.seed, ctx.step, len(times)) if t is None else times.index(t)
    null = ctx.model.conditions.null(batch.labels) if guidance_scale != 1.0 and condition is not None else None
    x_t = trajectory(
        ctx.model,
        x_T,
        condition,
        null,
        stop=stop,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
    )
    ctx.spent += len(batch) * stop * (1 if null is None else 2)
    unknown = torch.full_like(x_t, torch.nan)
    return replace(ctx.model.noising.noised(unknown, unknown, steps_at(timesteps[stop], x_t)), x_t=x_t)
