"""AdamW over the trained weights, its moments in full or in 8 bits (bitsandbytes; Dettmers et al. 2022, 2110.02861)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from erasediff.solver.adam import Moments
from erasediff.training.config import TrainingConfig
from erasediff.training.quantised import FAILURES, no_kernel, package

LEAST = 4096  # elements of the smallest weight whose moments bitsandbytes holds in 8 bits
BLOCK = 256  # of them share a scale


def optimizer(trained: Mapping[str, nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW with the settings of ``config``. Raises BadInput where 8 bits are asked for and cannot be had."""
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "weight_decay": config.adam_weight_decay,
    }
    if not config.use_8bit_adam:
        return torch.optim.AdamW(trained.values(), fused=True, **settings)
    library = eight_bit()
    _probe(library, next(iter(trained.values())).device)
    made: torch.optim.Optimizer = library.AdamW8bit(trained.values(), **settings)
    return made


def eight_bit() -> Any:
    """bitsandbytes' optimisers. Raises BadInput where they are missing."""
    return package("bitsandbytes.optim", "use_8bit_adam")


def _probe(library: Any, device: torch.device) -> None:
    """Raise BadInput unless a step can be taken on ``device``."""
    weight = nn.Parameter(torch.zeros(LEAST, device=device))
    weight.grad = torch.ones_like(weight)
    try:
        library.AdamW8bit([weight], lr=1e-3).step()
    except FAILURES as error:
        raise no_kernel("use_8bit_adam", device, error) from error


def moments(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], steps: int | None = None
) -> Moments | None:
    """Adam's state before the coming step, by default after as many as it counted; ``None`` under another optimiser."""
    if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return None
    group = optimizer.param_groups[0]
    states = [optimizer.state.get(p, {}) for p in parameters]
    first = [s.get("exp_avg", torch.zeros_like(p)) for s, p in zip(states, parameters, strict=True)]
    second = [s.get("exp_avg_sq", torch.zeros_like(p)) for s, p in zip(states, parameters, strict=True)]
    steps = int(states[0].get("step", 0)) if steps is None else steps
    beta1, beta2 = group["betas"]
    return Moments(first=first, second=second, steps=steps, beta1=beta1, beta2=beta2, eps=group["eps"])
