"""The exponential moving average of the trained weights, through diffusers' EMAModel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn


class Average:
    """EMAModel by parameter name. Its decay after n steps is min(decay, n / (n + 9)), so short runs do not lag."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters = dict(parameters)
        self.model = EMAModel(self.parameters.values(), decay=decay, foreach=True)
        self.model.to(device=next(iter(self.parameters.values())).device)

    def step(self) -> None:
        self.model.step(self.parameters.values())

    def apply(self) -> None:
        """Put the averaged weights into the model."""
        self.model.copy_to(self.parameters.values())

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model carries the averaged weights."""
        held = [p.detach().clone() for p in self.parameters.values()]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters.values(), held, strict=True):
                    parameter.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        return dict(zip(self.parameters, self.model.shadow_params, strict=True))

    def load(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        for name, shadow in self.tensors().items():
            shadow.copy_(tensors[name])
        self.model.optimization_step = steps
