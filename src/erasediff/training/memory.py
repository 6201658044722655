"""What a run will hold on the accelerator, part by part, before anything is loaded there: shapes alone say it.

Activations are not estimated: they depend on the kernels that torch chooses, and nothing here could check a rule for
them. So the sum is a lower bound of the peak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil, prod
from typing import Any

from torch import Tensor, nn

from erasediff.training import optimizer, quantised
from erasediff.training.config import TrainingConfig
from erasediff.training.lora import chosen
from erasediff.training.parameters import named

FLOAT = 4  # bytes: master weights, gradients, averages and latents are float32
NOT_COUNTED = (
    "activations, copies of weights that autocast casts among them",
    "what a method prepares (masks, Fisher matrices, drawn samples)",
    "buffers of several processes, and what the libraries themselves take",
    "the time before the first step: VAE and text encoders pass through then, and drawing takes the whole weights",
)

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on the accelerator between and during steps.

    ``denoiser``: its weights and buffers, quantised where they are; ``adapters``: those of a LoRA; ``frozen_copy``:
    theta_0, where it is a second copy; ``gradients``: as many lists as a step holds at once; ``optimizer``: Adam's
    moments; ``average``: the EMA; ``batch``: images and latents of both sides; ``text``: the table of prompts.
    """

    denoiser: int
    adapters: int
    frozen_copy: int
    gradients: int
    optimizer: int
    average: int
    batch: int
    text: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def record(self) -> dict[str, Any]:
        """For run.json."""
        return {**asdict(self), "total": self.total, "not_counted": list(NOT_COUNTED)}


def estimate(
    denoiser: nn.Module,
    config: TrainingConfig,
    *,
    frozen: bool,
    gradient_lists: int,
    batch: int = 0,
    text: int = 0,
) -> Memory:
    """What training ``denoiser`` as ``config`` says holds on each accelerator; it may be on the meta device.

    Args:
        frozen: whether the method asks theta_0. Under a LoRA that is the same weights.
        gradient_lists: gradients of the size of the trained weights that a step holds at once.
        batch: bytes of one step's batches, see :func:`batch_bytes`.
        text: bytes of the table of prompts.
    """
    shapes = trained_shapes(denoiser, config)
    trained, whole = FLOAT * sum(map(prod, shapes)), _bytes(*denoiser.parameters(), *denoiser.buffers())
    lora = config.rank is not None
    return Memory(
        denoiser=whole if config.quantize is None else _quantised_bytes(denoiser, config.quantize, whole),
        adapters=trained if lora else 0,
        frozen_copy=whole if frozen and not lora else 0,
        gradients=gradient_lists * trained,
        optimizer=_eight_bit_bytes(shapes) if config.use_8bit_adam else 2 * trained + FLOAT * len(shapes),
        average=trained if config.use_ema else 0,
        batch=batch,
        text=text,
    )


def trained_shapes(denoiser: nn.Module, config: TrainingConfig) -> list[Shape]:
    """The shapes of what is trained: the chosen weights, or A and B of each layer that gets a LoRA."""
    if config.rank is None:
        weights = dict(denoiser.named_parameters())
        return [tuple(weights[name].shape) for name in named(denoiser, config.decided().parameters)]
    return [shape for layer in chosen(denoiser, config).values() for shape in _pair(layer, config.rank)]


def batch_bytes(image_shape: Shape, latents: Shape | None, rows: int, sides: int) -> int:
    """Images [rows, C, H, W] of each side, with mean and deviation of their latents [rows, 2, c, h, w] where known."""
    return sides * rows * FLOAT * (prod(image_shape) + (0 if latents is None else 2 * prod(latents)))


def _pair(layer: nn.Module, rank: int) -> list[Shape]:
    outputs, inputs, *kernel = layer.weight.shape  # type: ignore[misc]
    return [(rank, inputs, *kernel), (outputs, rank, *(1 for _ in kernel))]


def _bytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _quantised_bytes(denoiser: nn.Module, kind: str, whole: int) -> int:
    packed = SIZES[kind]
    return whole + sum(packed(layer) - _bytes(layer.weight) for layer in quantised.linear_layers(denoiser).values())


def _int8(layer: nn.Linear) -> int:
    return layer.in_features * layer.out_features + FLOAT * layer.out_features


def _nf4(layer: nn.Linear) -> int:
    count = layer.in_features * layer.out_features
    return ceil(count / 2) + FLOAT * ceil(count / quantised.BLOCK)


SIZES: dict[str, Callable[[nn.Linear], int]] = {"int8": _int8, "nf4": _nf4}


def _eight_bit_bytes(shapes: list[Shape]) -> int:
    """Two moments: a byte each with a scale a block, and two tables for all; small weights in float32."""
    counts = [prod(shape) for shape in shapes]
    large = [count for count in counts if count >= optimizer.LEAST]
    blocks = sum(ceil(count / optimizer.BLOCK) for count in large)
    tables = 2 * FLOAT * 256 if large else 0
    return 2 * (sum(large) + FLOAT * blocks + FLOAT * (sum(counts) - sum(large))) + tables
