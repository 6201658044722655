"""Checkpoints of our own: weights, optimiser, average and method state as safetensors, counters as JSON. No pickle."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from erasediff.errors import BadInput, listing
from erasediff.files import read_json, sha256, staged_directory, write_json

PREFIX = "checkpoint-"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on: named groups of tensors (model, optimizer, ema, method) and counters."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    counters: dict[str, Any]


def save(directory: Path, checkpoint: Checkpoint, *, limit: int) -> Path:
    """Write ``directory/checkpoint-STEP`` whole or not at all, then drop all but the newest ``limit``."""
    final = directory / f"{PREFIX}{checkpoint.step}"
    with staged_directory(final) as staging:
        files = {}
        for group, tensors in checkpoint.tensors.items():
            path = staging / f"{group}.safetensors"
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
            files[path.name] = sha256(path)
        write_json(staging / STATE, {"step": checkpoint.step, "files": files, **checkpoint.counters})
    for old in listed(directory)[:-limit]:
        shutil.rmtree(old)
    return final


def listed(directory: Path) -> list[Path]:
    """Checkpoints in ``directory``, oldest first."""
    found = [p for p in directory.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix(PREFIX)))


def read(path: Path) -> Checkpoint:
    """Read one checkpoint. Raises BadInput if a file is missing, cut short or changed."""
    state = read_json(path / STATE)
    tensors = {}
    for name, digest in state.pop("files").items():
        file = path / name
        if not file.is_file() or sha256(file) != digest:
            raise BadInput(f"checkpoint {path} is damaged: {name} is missing or not what was written")
        tensors[file.stem] = load_file(file)
    return Checkpoint(state.pop("step"), tensors, state)


def find(directory: Path, wanted: str) -> Checkpoint:
    """``latest`` (falling back, aloud, past damaged ones) or the checkpoint of that path. Raises BadInput."""
    if wanted != "latest":
        path = Path(wanted)
        return read(path if path.exists() else directory / wanted)
    candidates = listed(directory)
    for path in reversed(candidates):
        try:
            return read(path)
        except BadInput as error:
            warnings.warn(f"{error}; falling back to the one before", stacklevel=2)
    tried = listing(p.name for p in candidates)
    raise BadInput(f"no usable checkpoint in {directory} (found: {tried}); start again with --overwrite")


def optimizer_tensors(optimizer: torch.optim.Optimizer, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adam's state as ``NAME/exp_avg`` and so on; a plain number as a 0-dim int64 tensor."""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in trained.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> None:
    """The inverse of :func:`optimizer_tensors`."""
    for name, parameter in trained.items():
        prefix = f"{name}/"
        entries = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
        optimizer.state[parameter] = {
            # The step count is changed in place, so it is not shared; fused Adam keeps it where the weights are, and
            # bitsandbytes as a plain number.
            key: int(value) if _count(value) else value.to(parameter.device, copy=key == "step")
            for key, value in entries.items()
        }


def _count(value: Tensor) -> bool:
    return value.dim() == 0 and value.dtype == torch.int64
