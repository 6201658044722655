"""Quantisation: does the target come back when the weights are rounded?

An erasure that moved the weights by less than a step of the grid is rounded away (Zhang et al. 2024,
arXiv:2410.16454, of language models). The grid is symmetric about 0 with one step size for each output channel:
``w -> s round(w / s)``, ``s = max |w| / (2^(bits - 1) - 1)``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from erasediff.auditing.attacks.asking import asked_again, asking_cost, at_least
from erasediff.auditing.attacks.base import FEWEST_SAMPLES, FORGETFUL, Scene, needs
from erasediff.auditing.finding import Finding
from erasediff.errors import BadInput

FEWEST_BITS, MOST_BITS = 2, 16


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """Round the weights of a copy to ``bits`` and ask for the target: ``attack_success_quantised_{bits}bit``.

    Raises BadInput for budgets that measure nothing and for bits outside 2..16.
    """

    bits: tuple[int, ...] = (8, 4)
    samples: int = 150

    name: ClassVar[str] = "quantisation"
    SUMMARY: ClassVar[str] = "round the weights to 8 and to 4 bits and ask for the target"
    PAPER: ClassVar[str] = "arXiv:2410.16454"
    SUBJECTS: ClassVar[tuple[str, ...]] = FORGETFUL
    WITHOUT_IMAGES: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least("the number of bit widths", len(self.bits), 1)
        at_least("samples", self.samples, FEWEST_SAMPLES)
        for bits in self.bits:
            _check_bits(bits)

    def refusal(self, scene: Scene) -> str | None:
        return needs(scene, judge=True, classes=True)

    def cost(self, scene: Scene) -> int:
        return len(self.bits) * asking_cost(scene, self.samples)

    def run(self, scene: Scene) -> list[Finding]:
        return [
            asked_again(
                scene,
                quantised(scene.model.denoiser, bits),
                self.samples,
                kind=self.name,
                attack=f"{self.name} ({bits} bit)",
                what=f"quantised_{bits}bit",
                detail={"bits": bits, "scheme": "symmetric, per output channel, round to nearest"},
            )
            for bits in self.bits
        ]


@torch.no_grad()
def quantised(module: nn.Module, bits: int) -> nn.Module:
    """A copy of ``module`` whose weights of two dimensions or more lie on a grid of 2^bits - 1 values.

    The grid is each output channel's own (the first dimension). Biases and the scales of norms, which have one
    dimension, stay: deployments keep them in full precision. Raises BadInput unless 2 <= bits <= 16.
    """
    _check_bits(bits)
    rounded = copy.deepcopy(module)
    largest = 2 ** (bits - 1) - 1
    for weight in rounded.parameters():
        if weight.dim() >= 2:
            weight.copy_(_on_grid(weight.float(), largest))
    return rounded


def _on_grid(weight: Tensor, largest: int) -> Tensor:
    highest = weight.flatten(1).abs().amax(1)
    # A channel of zeros has no step size, and any will do.
    scale = torch.where(highest > 0, highest / largest, torch.ones_like(highest))
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, -largest, largest)


def _check_bits(bits: int) -> None:
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise BadInput(f"bits must lie between {FEWEST_BITS} and {MOST_BITS}, got {bits}")
