"""The frozen Linear layers under a LoRA, held in fewer bits; and the door to bitsandbytes.

int8: 8 bits a weight, one scale a row, ``W = diag(s) Q`` with s the row's largest magnitude / 127; plain torch.
nf4: 4 bits a weight, one scale for each 64 of them (Dettmers et al. 2023, arXiv:2305.14314, sec. 3), by bitsandbytes.

A weight is unpacked where it is used, forward and backward, and never kept: what torchao 0.18 offers for int8 leaves an
unpacked copy of every layer in the graph. The layers that were there before wait in the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from erasediff.errors import BadInput
from erasediff.families.lora import replace_module
from erasediff.training.config import TrainingConfig

BLOCK = 64  # weights that share a scale in nf4
COMPUTE = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FAILURES = (RuntimeError, NotImplementedError, AttributeError, ValueError, TypeError)


class Packed(NamedTuple):
    """A weight in fewer bits, its scales (float32), and what makes a weight [out, in] of the two again."""

    values: Tensor
    scales: Tensor
    unpack: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Quantised:
    """The layers of ``denoiser`` that were replaced, by name: as they were, on the CPU."""

    denoiser: nn.Module
    layers: dict[str, nn.Linear]

    def undo(self) -> None:
        """Put the layers back; the whole denoiser is on the CPU then."""
        for name, layer in self.layers.items():
            replace_module(self.denoiser, name, layer)
        self.denoiser.to("cpu")


class QuantisedLinear(nn.Linear):
    """A Linear layer of frozen weights in fewer bits. It computes in ``dtype``, whatever it is given."""

    def __init__(self, layer: nn.Linear, kind: str, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        packed = PACKERS[kind](layer.weight.detach().to(device, torch.float32), dtype)
        self.weight = nn.Parameter(packed.values, requires_grad=False)
        self.register_buffer("scales", packed.scales)
        self.scales: Tensor
        self.unpack, self.dtype = packed.unpack, dtype
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().to(device, copy=True), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = _Product.apply(input.to(self.dtype), self.weight, self.scales, self.unpack)
        return product if self.bias is None else product + self.bias.to(self.dtype)


class _Product(torch.autograd.Function):
    """x W^T [..., out] of x [..., in] and a packed W, which is unpacked again in the backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, values: Tensor, scales: Tensor, unpack: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return x @ unpack(values, scales).t()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        _, values, scales, ctx.unpack = inputs
        ctx.save_for_backward(values, scales)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        weight = ctx.unpack(*ctx.saved_tensors)
        return gradient.to(weight.dtype) @ weight, None, None, None


def linear_layers(denoiser: nn.Module) -> dict[str, nn.Linear]:
    """What is quantised: every Linear layer, the embeddings of time and the last projection as well."""
    return {name: module for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)}


def check_quantises(kind: str | None) -> None:
    """Raise BadInput where the package is missing that ``kind`` takes."""
    if kind == "nf4":
        _four_bits()


def quantise(denoiser: nn.Module, config: TrainingConfig, device: torch.device) -> Quantised | None:
    """Replace the Linear layers of ``denoiser``, one after the other, by quantised ones on ``device``; in place.

    Raises BadInput where there are none, or the package is missing or has no kernel for the device.
    """
    kind = config.quantize
    if kind is None:
        return None
    layers, dtype = linear_layers(denoiser), COMPUTE[config.mixed_precision]
    if not layers:
        raise BadInput(f"quantize {kind} is for Linear layers, and a {type(denoiser).__name__} has none; leave it out")
    _probe(kind, dtype, device)
    for name, layer in layers.items():
        replace_module(denoiser, name, QuantisedLinear(layer, kind, dtype, device))
        layer.to("cpu")
    return Quantised(denoiser, layers)


def package(name: str, what: str) -> Any:
    """A part of bitsandbytes. Raises BadInput where it is missing or does not load."""
    try:
        return import_module(name)
    except (ImportError, OSError, RuntimeError) as missing:
        raise BadInput(
            f'{what} needs bitsandbytes, which is not installed or does not load here; pip install "erasediff[memory]"'
        ) from missing


def no_kernel(what: str, device: torch.device, error: Exception) -> BadInput:
    """The refusal of what bitsandbytes could not do on ``device``."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
    return BadInput(
        f"{what} does not work on {device.type} with the bitsandbytes that is installed: {reason}; leave it out, or "
        "take the version of constraints.txt"
    )


def _probe(kind: str, dtype: torch.dtype, device: torch.device) -> None:
    try:
        layer = QuantisedLinear(nn.Linear(BLOCK, BLOCK), kind, dtype, device)
        layer(torch.ones(1, BLOCK, device=device, requires_grad=True)).sum().backward()
    except FAILURES as error:
        raise no_kernel(f"quantize {kind}", device, error) from error


def _int8(weight: Tensor, dtype: torch.dtype) -> Packed:
    largest = weight.abs().amax(1)
    scales = torch.where(largest == 0, torch.ones_like(largest), largest / 127)
    return Packed((weight / scales[:, None]).round().to(torch.int8), scales, partial(_from_int8, dtype=dtype))


def _from_int8(values: Tensor, scales: Tensor, *, dtype: torch.dtype) -> Tensor:
    return (values * scales[:, None]).to(dtype)


def _four_bits() -> Any:
    return package("bitsandbytes.functional", "quantize nf4")


def _nf4(weight: Tensor, dtype: torch.dtype) -> Packed:
    values, state = _four_bits().quantize_4bit(weight.contiguous(), blocksize=BLOCK, quant_type="nf4")
    return Packed(values, state.absmax, partial(_from_nf4, shape=weight.shape, dtype=dtype))


def _from_nf4(values: Tensor, scales: Tensor, *, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    library = _four_bits()
    state = library.QuantState(absmax=scales, shape=shape, dtype=dtype, blocksize=BLOCK, quant_type="nf4")
    found: Tensor = library.dequantize_4bit(values, state)
    return found


PACKERS: dict[str, Callable[[Tensor, torch.dtype], Packed]] = {"int8": _int8, "nf4": _nf4}
