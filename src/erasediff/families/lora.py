"""Low-rank adapters as they are stored and merged (Hu et al. 2021, arXiv:2106.09685).

``W' = W + alpha / r * B A`` (sec. 4.1), with A [r, in] and B [out, r]; of a convolution A is [r, in, kH, kW], B
[out, r, 1, 1]. Training them is for ``training/lora.py``; here nothing needs peft.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from erasediff.errors import BadInput
from erasediff.files import read_json, staged_directory, write_atomic, write_json

PIPELINE_FILE = "pytorch_lora_weights.safetensors"  # what diffusers' load_lora_weights looks for
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_PREFIX = "base_model.model"
METADATA = "lora_adapter_metadata"  # where diffusers keeps rank and alpha, as JSON by "PART.KEY"


@dataclass(frozen=True, eq=False)
class Lora:
    """A trained LoRA: by layer, A and B as above, in float32 on the CPU."""

    rank: int
    alpha: float
    tensors: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def layers(self) -> list[str]:
        return list(self.tensors)

    @torch.no_grad()
    def merge(self, denoiser: nn.Module) -> None:
        """Add it to the weights of ``denoiser``, in place.

        Raises BadInput, before anything changed, where a layer is missing or of another size.
        """
        modules, changes = dict(denoiser.named_modules()), []
        for name, (a, b) in self.tensors.items():
            weight = getattr(modules.get(name), "weight", None)
            change = self.alpha / self.rank * (b.flatten(1) @ a.flatten(1))
            if weight is None or weight.flatten(1).shape != change.shape:
                has = "has no such layer" if weight is None else f"has one of {[*weight.shape]}"
                raise BadInput(
                    f"the LoRA is for another model: layer {name} takes {[*change.shape]}, and this "
                    f"{type(denoiser).__name__} {has}"
                )
            changes.append((weight, change))
        for weight, change in changes:
            weight += change.view_as(weight).to(weight)

    def config(self) -> dict[str, Any]:
        """What peft's LoraConfig must be told to make the same adapters."""
        alpha = int(self.alpha) if float(self.alpha).is_integer() else self.alpha
        return {"r": self.rank, "lora_alpha": alpha, "target_modules": self.layers}

    def keyed(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under peft's names: ``PREFIX.LAYER.lora_A.weight``."""
        return _suffixed(self, lambda layer: f"{prefix}.{layer}", "lora_A", "lora_B")

    def kohya(self, part: str) -> dict[str, Tensor]:
        """The tensors under the names that ComfyUI and AUTOMATIC1111 read: ``lora_PART_LAYER.lora_down.weight``."""
        made = _suffixed(self, lambda layer: f"lora_{part}_{layer.replace('.', '_')}", "lora_down", "lora_up")
        alphas = {f"{name.split('.')[0]}.alpha": torch.tensor(float(self.alpha)) for name in made}
        return dict(sorted({**made, **alphas}.items()))


def _suffixed(lora: Lora, header: Any, down: str, up: str) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for layer, (a, b) in lora.tensors.items():
        made |= {f"{header(layer)}.{down}.weight": a, f"{header(layer)}.{up}.weight": b}
    return made


def replace_module(denoiser: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` where ``denoiser`` has the one of that name."""
    parent, _, child = name.rpartition(".")
    setattr(denoiser.get_submodule(parent), child, module)


def part_of(pipeline: Any) -> str:
    """The name of the denoiser in a pipeline."""
    return "unet" if hasattr(pipeline, "unet") else "transformer"


def write(lora: Lora, pipeline: Any, directory: Path) -> None:
    """Write the LoRA of a pipeline's denoiser; the directory appears whole or not at all.

    Where the pipeline has ``load_lora_weights``, its file; for the others, an adapter directory for peft.
    """
    with staged_directory(directory) as staging:
        part = part_of(pipeline)
        if hasattr(pipeline, "load_lora_weights"):
            metadata = {METADATA: json.dumps({f"{part}.{k}": v for k, v in lora.config().items()}, sort_keys=True)}
            _save(lora.keyed(part), staging / PIPELINE_FILE, metadata)
        else:
            _save(lora.keyed(PEFT_PREFIX), staging / PEFT_FILE)
            config = {"peft_type": "LORA", "inference_mode": True, "bias": "none", "lora_dropout": 0.0, **lora.config()}
            write_json(staging / PEFT_CONFIG, config)


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomic(path, serialised(plain, metadata={"format": "pt", **(metadata or {})}))


def write_kohya(directory: Path, path: Path) -> None:
    """Write the pipeline's LoRA in ``directory`` to one safetensors file, under kohya's names."""
    found = read(directory)
    with safe_open(directory / PIPELINE_FILE, framework="pt") as stored:
        part = next(iter(stored.keys())).partition(".")[0]
    _save(found.kohya(part), path)


def holds_lora(directory: Path) -> bool:
    """Whether :func:`read` can read ``directory``."""
    return (directory / PIPELINE_FILE).is_file() or (directory / PEFT_FILE).is_file()


def read(directory: Path) -> Lora:
    """Read what :func:`write` wrote. Raises BadInput for files that are missing, broken or hold something else."""
    path = next((directory / f for f in (PIPELINE_FILE, PEFT_FILE) if (directory / f).is_file()), None)
    if path is None:
        raise BadInput(f"{directory} holds no LoRA (neither {PIPELINE_FILE} nor {PEFT_FILE})")
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            said = json.loads((stored.metadata() or {}).get(METADATA, "{}"))
        if path.name == PEFT_FILE:
            said = read_json(directory / PEFT_CONFIG)
        settings = {key.rpartition(".")[2]: value for key, value in said.items()}
        return _paired(tensors, int(settings["r"]), float(settings["lora_alpha"]))
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path} is no LoRA that erasediff wrote: {reason}") from error


def _paired(tensors: Mapping[str, Tensor], rank: int, alpha: float) -> Lora:
    down, prefixes = ".lora_A.weight", (f"{PEFT_PREFIX}.", "unet.", "transformer.")
    pairs = {}
    for name in sorted(n for n in tensors if n.endswith(down)):
        stem = name.removesuffix(down)
        prefix = next((p for p in prefixes if stem.startswith(p)), "")
        pairs[stem.removeprefix(prefix)] = tensors[name].float(), tensors[f"{stem}.lora_B.weight"].float()
    return Lora(rank, alpha, pairs)
