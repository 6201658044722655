"""The door to peft: low-rank adapters on a denoiser, trained in the place of its weights (arXiv:2106.09685).

The weights themselves never change, so that theta_0 is the same network with the adapters switched off.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from erasediff.errors import BadInput
from erasediff.families.lora import Lora, replace_module
from erasediff.randomness import generator
from erasediff.training.config import TrainingConfig
from erasediff.training.parameters import SETS, named
from erasediff.training.quantised import Quantised, check_quantises

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ADAPTER = "default"


@dataclass(frozen=True, eq=False)
class Adapters:
    """Adapters that were attached to ``denoiser``, by layer; ``trained`` are their A and B by parameter name."""

    denoiser: nn.Module
    rank: int
    alpha: float
    layers: dict[str, LoraLayer]
    trained: dict[str, nn.Parameter]
    quantised: Quantised | None = None

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the block the denoiser is theta_0."""
        for layer in self.layers.values():
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.enable_adapters(True)

    def merge(self) -> Lora:
        """Take the adapters off, add them to the weights, and return them: the denoiser's modules are its own again.

        Quantised layers are first put back as they were, and the denoiser is on the CPU then.
        """
        found = {name: (_plain(m.lora_A[ADAPTER]), _plain(m.lora_B[ADAPTER])) for name, m in self.layers.items()}
        for name, layer in self.layers.items():
            replace_module(self.denoiser, name, layer.get_base_layer())
        del self.denoiser.peft_config
        if self.quantised is not None:
            self.quantised.undo()
        lora = Lora(self.rank, self.alpha, found)
        lora.merge(self.denoiser)
        return lora


class SwitchedOff:
    """theta_0 as a denoiser that can be asked: the one that is trained, its adapters off, no graph."""

    def __init__(self, adapters: Adapters) -> None:
        self.adapters = adapters

    def __call__(self, *given: Any, **options: Any) -> Any:
        with torch.no_grad(), self.adapters.off():
            return self.adapters.denoiser(*given, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.adapters.denoiser, name)


def _plain(layer: Any) -> Tensor:
    return layer.weight.detach().float().cpu().clone()


def planned(denoiser: nn.Module, config: TrainingConfig) -> dict[str, Any]:
    """Rank, alpha and layers, for the record. Raises BadInput for whatever :func:`attach` would refuse."""
    _peft()
    check_quantises(config.quantize)
    return {"rank": config.rank, "alpha": _alpha(config), "layers": list(chosen(denoiser, config))}


def chosen(denoiser: nn.Module, config: TrainingConfig) -> dict[str, nn.Module]:
    """The layers that get adapters: Linear ones, and where ``parameters`` is a glob ungrouped Conv2d ones.

    Raises BadInput where there are none, or one is smaller than the rank.
    """
    config = config.decided()
    names, rank = set(named(denoiser, config.parameters)), config.rank or 0
    kinds = (nn.Linear,) if config.parameters in SETS else (nn.Linear, nn.Conv2d)
    found: dict[str, Any] = {
        name: module
        for name, module in denoiser.named_modules()
        if isinstance(module, kinds) and f"{name}.weight" in names and getattr(module, "groups", 1) == 1
    }
    if not found:
        raise BadInput(
            f"parameters {config.parameters!r} names weights, but none of a layer that takes a LoRA: needed are "
            f"{' or '.join(k.__name__ for k in kinds)}; name others, or leave out the rank"
        )
    limits = {name: _smaller_side(module) for name, module in found.items()}
    least = min(limits, key=lambda name: limits[name])
    if rank > limits[least]:
        raise BadInput(
            f"rank {rank} is more than layer {least} has: {limits[least]} at most; "
            "give a smaller rank, or leave the layer out with other parameters"
        )
    return found


def _smaller_side(layer: Any) -> int:
    if isinstance(layer, nn.Linear):  # of quantised ones the weight has another shape
        return min(layer.out_features, layer.in_features)
    return min(len(layer.weight), layer.weight[0].numel())


def attach(denoiser: nn.Module, config: TrainingConfig, quantised: Quantised | None = None) -> Adapters:
    """Put adapters on ``denoiser``, in place, and let gradients flow to them alone. Its predictions do not change.

    A is drawn from (seed, 0, "lora"), B is zero. Raises BadInput where peft is missing or the layers do not take them.
    """
    peft, names, rank = _peft(), list(chosen(denoiser, config)), config.rank or 0
    # As one expression that means these layers only: a list would mean every layer whose name ends like one of them.
    pattern = "|".join(map(re.escape, names))
    settings = peft.LoraConfig(r=rank, lora_alpha=_alpha(config), target_modules=pattern)
    devices = [denoiser.device] if str(denoiser.device).startswith("cuda") else []
    with torch.random.fork_rng(devices):  # what peft draws is drawn again below
        peft.inject_adapter_in_model(settings, denoiser, ADAPTER)
    denoiser.requires_grad_(False)
    layers = {name: denoiser.get_submodule(name) for name in names}
    source = generator(config.seed, 0, "lora")
    trained: dict[str, nn.Parameter] = {}
    for name, layer in layers.items():
        a, b = (getattr(layer, half)[ADAPTER].float().weight for half in ("lora_A", "lora_B"))
        drawn = nn.init.kaiming_uniform_(torch.empty(a.shape), a=math.sqrt(5), generator=source)
        with torch.no_grad():
            a.copy_(drawn)
            b.zero_()
        pair = ((f"{name}.{half}.{ADAPTER}.weight", w) for half, w in (("lora_A", a), ("lora_B", b)))
        trained |= {path: weight.requires_grad_(True) for path, weight in pair}
    return Adapters(denoiser, rank, _alpha(config), layers, trained, quantised)


def _alpha(config: TrainingConfig) -> float:
    return float(config.lora_alpha or config.rank or 0)


def _peft() -> Any:
    try:
        import peft
    except ImportError as missing:
        raise BadInput('a LoRA needs peft, which is not installed; pip install "erasediff[lora]"') from missing
    return peft
