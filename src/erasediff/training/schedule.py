"""The learning rate as a pure function of the step, through diffusers' schedules: nothing to save on a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.optimization import get_scheduler

from erasediff.training.config import TrainingConfig


def learning_rate(config: TrainingConfig) -> Callable[[int], float]:
    """``rate(step)`` for the schedule that ``config`` names."""
    dummy = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_scheduler(
        config.lr_scheduler,
        dummy,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
    )
    factor = schedule.lr_lambdas[0]
    return lambda step: config.learning_rate * float(factor(step))
