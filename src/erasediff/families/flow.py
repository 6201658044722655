"""What transformers of flow matching share: how they are drawn from, and the length of the prompts that T5 reads."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler

T5_LENGTH = 256  # tokens of T5 where a pipeline is asked for no other number (max_sequence_length)


def euler(scheduler: Any, num_inference_steps: int, *, mu: float, sigmas: list[float] | None = None) -> Any:
    """Euler's method over the model's own schedule: deterministic, the first noise alone decides on the image.

    ``mu``: the shift for the size of the images, where the schedule depends on it; ``sigmas``: those before the shift.
    """
    sampler = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config, stochastic_sampling=False)
    dynamic = {"mu": mu} if scheduler.config.get("use_dynamic_shifting") else {}
    sampler.set_timesteps(num_inference_steps, sigmas=sigmas, **dynamic)
    sampler.set_begin_index(0)
    return sampler
