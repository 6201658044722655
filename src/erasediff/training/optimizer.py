"""AdamW over the trained weights, its moments in full or in 8 bits (bitsandbytes; Dettmers et al. 2022, 2110.02861)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

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
