"""Drawing images from a model: one loop for every family, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from erasediff.families.base import Condition, Model


@torch.no_grad()
def sample(
    model: Model,
    x_T: Tensor,
    condition: Condition,
    null: Condition,
    *,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 20,
    denoiser: nn.Module | None = None,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Denoise ``x_T`` [B, C, H, W] to images [B, C, H, W] in [-1, 1].

    ``guidance_scale`` w: prediction = null + w (conditional - null) (Ho and Salimans 2022, arXiv:2207.12598, in the
    convention of diffusers: 1 means no guidance, and costs one pass a step instead of two).
    """
    x = trajectory(
        model,
        x_T,
        condition,
        null,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
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
    stop: int | None = None,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 20,
    denoiser: nn.Module | None = None,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """What :func:`sample` holds after ``stop`` of its steps (default: all): ``x_t`` [B, ...] at the next time step."""
    denoiser = model.denoiser if denoiser is None else denoiser
    scheduler = model.sampler(num_inference_steps)
    guided = guidance_scale != 1.0 and condition is not None and null is not None
    x = x_T
    for t in scheduler.timesteps[:stop]:
        steps = steps_at(t, x)
        if guided:
            both = torch.cat([condition, null])  # type: ignore[list-item]
            given, free = model.ask(denoiser, torch.cat([x, x]), torch.cat([steps, steps]), both).chunk(2)
            prediction = free + guidance_scale * (given - free)
        else:
            prediction = model.ask(denoiser, x, steps, condition)
        x = scheduler.step(prediction.float(), t, x).prev_sample
        if on_step is not None:
            on_step()
    return x


def steps_at(t: Tensor, x: Tensor) -> Tensor:
    """A sampler's timestep ``t`` for every row of ``x`` [B, ...]: integers stay integers, a flow's floats floats."""
    dtype = t.dtype if t.is_floating_point() else torch.long
    return torch.full((x.shape[0],), t.item(), device=x.device, dtype=dtype)
