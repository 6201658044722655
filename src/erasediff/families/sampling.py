"""Drawing images from a model: one loop for every family, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from erasediff.families.base import Condition, Model
from erasediff.families.precision import FULL, autocast


@torch.no_grad()
def sample(
    model: Model,
    x_T: Tensor,
    condition: Condition,
    null: Condition,
    *,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 20,
    mixed_precision: str = FULL,
    denoiser: nn.Module | None = None,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Denoise ``x_T`` [B, C, H, W] to images [B, C, H, W] in [-1, 1].

    ``guidance_scale`` w: prediction = null + w (conditional - null) (Ho and Salimans 2022, arXiv:2207.12598, in the
    convention of diffusers: 1 means no guidance, and costs one pass a step instead of two). ``mixed_precision`` (no,
    bf16 or fp16): of the denoiser alone; guidance, the sampler's steps and the decoder stay fp32.
    """
    x = trajectory(
        model,
        x_T,
        condition,
        null,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        mixed_precision=mixed_precision,
        denoiser=denoiser,
        on_step=on_step,
    )
    return model.decode(x)


@torch.no_grad()
def trajectory(
    model: Model,
    x_T: Tensor,
    condition: Condition,
    null: Condition,
    *,
    start: int = 0,
    stop: int | None = None,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 20,
    mixed_precision: str = FULL,
    denoiser: nn.Module | None = None,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """What :func:`sample` holds after ``stop`` of its steps (default: all): ``x_t`` [B, ...] at the next time step.

    ``start``: the step before which ``x_T`` stands, where it has been noised part of the way only.
    """
    denoiser = model.denoiser if denoiser is None else denoiser
    scheduler = model.sampler(num_inference_steps)
    null = null if guidance_scale != 1.0 else None
    if start:
        scheduler.set_begin_index(start)
    x = x_T
    for t in scheduler.timesteps[start:stop]:
        with autocast(x.device, mixed_precision):
            prediction = _guided(model, denoiser, x, steps_at(t, x), condition, null, guidance_scale)
        x = scheduler.step(prediction, t, x).prev_sample
        if on_step is not None:
            on_step()
    return x


def _guided(
    model: Model, denoiser: nn.Module, x: Tensor, t: Tensor, condition: Condition, null: Condition, scale: float
) -> Tensor:
    """The prediction [B, ...] in fp32 that a sampler steps along: one pass, or with a ``null`` two and guidance."""
    if condition is None or null is None:
        return model.ask(denoiser, x, t, condition).float()
    both = model.ask(denoiser, torch.cat([x, x]), torch.cat([t, t]), torch.cat([condition, null]))
    # In half precision the difference of two close predictions would be mostly rounding, and is then multiplied.
    given, free = both.float().chunk(2)
    return free + scale * (given - free)


def steps_at(t: Tensor, x: Tensor) -> Tensor:
    """A sampler's timestep ``t`` for every row of ``x`` [B, ...]: integers stay integers, a flow's floats floats."""
    dtype = t.dtype if t.is_floating_point() else torch.long
    return torch.full((x.shape[0],), t.item(), device=x.device, dtype=dtype)
