"""Samplers that several families share."""

from __future__ import annotations

from typing import Any

from diffusers import DPMSolverMultistepScheduler


def ode_solver(scheduler: Any, num_inference_steps: int) -> DPMSolverMultistepScheduler:
    """A fast solver over the table of a variance-preserving scheduler, for latents."""
    # Latents have no range to be clipped to. A scheduler that is told of a learned variance splits its input, at
    # three channels whatever the latents have. And an ODE's solver: the first noise alone decides on the image.
    sampler = DPMSolverMultistepScheduler.from_config(
        scheduler.config, thresholding=False, variance_type=None, algorithm_type="dpmsolver++"
    )
    sampler.set_timesteps(num_inference_steps)
    return sampler
