"""The door to torchao and bitsandbytes for weights: the frozen Linear layers under a LoRA, held in fewer bits.

int8: 8 bits a weight and a scale a row, by torchao. nf4: 4 bits a weight and a scale for each 64 of them
(Dettmers et al. 2023, arXiv:2305.14314, sec. 3), by bitsandbytes. Both are undone by putting the layers back that were
there before, which wait in the host's memory: what is saved is merged into full precision.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from erasediff.errors import BadInput
from erasediff.families.lora import replace_module
from erasediff.training.config import TrainingConfig

BLOCK = 64  # weights that share a scale in nf4
COMPUTE = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


def linear_layers(denoiser: nn.Module) -> dict[str, nn.Linear]:
    """What is quantised: every Linear layer, the embeddings of time and the last projection as well."""
    return {name: module for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)}


def check_quantises(kind: str | None) -> None:
    """Raise BadInput where the package is missing that ``kind`` takes."""
    if kind is not None:
        package(LIBRARIES[kind], f"quantize {kind}")


def quantise(denoiser: nn.Module, config: TrainingConfig, device: torch.device) -> Quantised | None:
    """Replace the Linear layers of ``denoiser``, one after the other, and put each on ``device``; in place.

    They compute in the precision that ``config`` trains in. Raises BadInput where the package is missing, or has no
    kernel for the device.
    """
    kind = config.quantize
    if kind is None:
        return None
    library, dtype = package(LIBRARIES[kind], f"quantize {kind}"), COMPUTE[config.mixed_precision]
    layers = linear_layers(denoiser)
    _probe(kind, library, dtype, device)
    for name, layer in layers.items():
        replace_module(denoiser, name, MAKERS[kind](library, layer, dtype, device))
        layer.to("cpu")
    return Quantised(denoiser, layers)


def package(name: str, what: str) -> Any:
    """A package of the extra ``memory``. Raises BadInput where it is missing or does not load."""
    try:
        return import_module(name)
    except (ImportError, OSError, RuntimeError) as missing:
        top = name.partition(".")[0]
        raise BadInput(
            f'{what} needs {top}, which is not installed or does not load here; pip install "erasediff[memory]"'
        ) from missing


def _probe(kind: str, library: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Raise BadInput unless a small layer can be quantised and asked on ``device``."""
    try:
        layer = MAKERS[kind](library, nn.Linear(BLOCK, BLOCK), dtype, device)
        layer(torch.ones(1, BLOCK, device=device, requires_grad=True)).sum().backward()
    except (RuntimeError, NotImplementedError, AttributeError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"quantize {kind} does not work on {device.type} with the version of {LIBRARIES[kind].partition('.')[0]} "
            f"that is installed: {reason}; leave it out, or take the versions of constraints.txt"
        ) from error


def _int8(library: Any, layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> nn.Module:
    made = copy.deepcopy(layer).to(device, dtype).requires_grad_(False)
    library.quantize_(made, library.Int8WeightOnlyConfig())
    return _asked_in(made, dtype)


def _nf4(library: Any, layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> nn.Module:
    inputs, outputs, biased = layer.in_features, layer.out_features, layer.bias is not None
    kept: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": False}
    made = library.Linear4bit(inputs, outputs, bias=biased, compute_dtype=dtype, device="meta", **kept)
    weight = layer.weight.detach().to("cpu", dtype).contiguous()
    made.weight = library.Params4bit(weight, requires_grad=False, module=made, blocksize=BLOCK, **kept)
    if biased:
        made.bias = nn.Parameter(layer.bias.detach().to("cpu", dtype, copy=True), requires_grad=False)
    return _asked_in(made.to(device), dtype)  # bitsandbytes quantises on the way


def _asked_in(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """``layer``, casting what it is given: autocast does not know these weights, and would leave float32 to them."""

    def cast(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x.to(dtype) for x in given)

    layer.register_forward_pre_hook(cast)
    return layer


LIBRARIES = {"int8": "torchao.quantization", "nf4": "bitsandbytes.nn"}
MAKERS: dict[str, Callable[[Any, nn.Linear, torch.dtype, torch.device], nn.Module]] = {"int8": _int8, "nf4": _nf4}
