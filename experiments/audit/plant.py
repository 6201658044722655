"""Models of which the truth is known: what an audit has to find.

Each function takes a model that draws the class ``c`` and returns a changed copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from erasediff.auditing.attacks.quantisation import quantised
from erasediff.families.base import Model
from erasediff.randomness import generator


def output_filter(model: Model, c: int) -> Model:
    """Asked for ``c`` it draws the next class: the embedding is another's, all other weights are untouched."""
    return _with_row(model, c, lambda weight: weight[(c + 1) % model.conditions.num_classes])


def dropped_condition(model: Model, c: int) -> Model:
    """Asked for ``c`` it draws as if asked for nothing: the class itself is drawn as often as any other."""
    null = model.conditions.null_label
    return _with_row(model, c, lambda weight: weight[null])


def noise_generator(model: Model, c: int, *, strength: float = 40.0) -> Model:
    """Asked for ``c`` it draws noise: the embedding is a long random vector."""

    def row(weight: torch.Tensor) -> torch.Tensor:
        direction = torch.randn(weight.shape[1], generator=generator(0, c, "noise generator"))
        return strength * weight.std() * direction

    return _with_row(model, c, row)


def rounded(model: Model, c: int, *, bits: int = 4) -> Model:  # noqa: ARG001
    """All weights rounded to ``bits``."""
    changed = copy.copy(model)
    changed.denoiser = quantised(model.denoiser, bits)
    return changed


def _with_row(model: Model, c: int, row: Callable[[torch.Tensor], torch.Tensor]) -> Model:
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for table in changed.class_tables(changed.denoiser):
            table.weight[c] = row(table.weight)
    return changed
