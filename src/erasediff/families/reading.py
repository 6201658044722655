"""The parts of a pipeline directory, read with every check: complete, of the named class, finite, never a pickle."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from erasediff.errors import BadInput, listing
from erasediff.files import read_json

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"  # the stems of the two libraries' weight files
WHOLE, HALF = (".safetensors", ".safetensors.index.json"), (".fp16.safetensors", ".safetensors.index.fp16.json")
PICKLED = ("*.bin*", "*.ckpt", "*.pt", "*.pth")
# What the libraries raise for a file that is not what its name says.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, NotImplementedError, SafetensorError)


def read_index(directory: Path) -> dict[str, Any]:
    """``model_index.json``: each part's library and class. Raises BadInput where it is missing or no table."""
    index = read_json(directory / "model_index.json")
    if not isinstance(index, dict):
        raise BadInput(f"{directory / 'model_index.json'} must be an object that names the parts; it is {index!r}")
    return index


def named_class(index: dict[str, Any], part: str) -> str:
    """The class that ``model_index.json`` names for a part; ``None`` (in letters) where it has no such part."""
    entry = index.get(part)
    return str(entry[1]) if isinstance(entry, list) and len(entry) == 2 else "None"


def read_part(directory: Path, part: str, kind: Any, *, also: tuple[str, ...] = (), stem: str = DIFFUSERS) -> Any:
    """The module in ``directory/part``, of the class ``kind``, in evaluation mode and float32.

    Whole or in shards; the weights of variant fp16 where there are no others. ``also``: names under which older
    directories call the same class; ``stem``: of the weights' files. Raises BadInput for what is missing, pickled, of
    another class, unreadable, incomplete or not finite. Weights must be safetensors; no code is run.
    """
    folder, allowed = directory / part, (kind.__name__, *also)
    _check_there(directory, f"{part}/config.json")
    _check_class(directory, part, allowed)
    _check_weights(directory, part, stem)
    whole = any((folder / (stem + ending)).is_file() for ending in WHOLE)
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    if stem == DIFFUSERS:
        options["low_cpu_mem_usage"] = False
    try:
        module, info = kind.from_pretrained(folder, variant=None if whole else "fp16", **options)
    except UNREADABLE as error:
        raise BadInput(f"{folder} cannot be read as a {kind.__name__}: {first_line(error)}") from error
    # Both libraries draw at random what a file lacks, and only log it.
    absent = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if absent:
        raise BadInput(f"{folder} lacks weights of a {kind.__name__}: {len(absent)}, the first is {absent[0]}")
    check_finite(module, folder)
    return module.float().eval()


def check_finite(module: nn.Module, place: Path) -> None:
    """Raise BadInput where a weight, or a statistic that is stored with them, is NaN or infinite."""
    broken = [n for n, p in module.state_dict().items() if not bool(torch.isfinite(p).all())]
    if broken:
        raise BadInput(f"{place} holds weights that are not finite (NaN or infinity), first in {broken[0]}")


def read_tokenizer(directory: Path, part: str, kind: Any, files: Iterable[tuple[str, ...]]) -> Any:
    """The tokenizer in ``directory/part``. ``files``: what it is made of, each under any of several names.

    Without its files transformers makes an empty tokenizer, to which all prompts are alike: BadInput.
    """
    for names in files:
        _check_there(directory, *(f"{part}/{name}" for name in names))
    try:
        return kind.from_pretrained(directory / part, local_files_only=True)
    except UNREADABLE as error:
        raise BadInput(f"{directory / part} cannot be read as a {kind.__name__}: {first_line(error)}") from error


def read_scheduler(directory: Path, name: str | None = None, *, allowed: Iterable[str] = ()) -> Any:
    """The scheduler as it was saved: the class ``name``, or the one that its own configuration names.

    Raises BadInput for a class that diffusers does not have, or that is not ``allowed`` where any are given.
    """
    path = directory / "scheduler" / "scheduler_config.json"
    _check_there(directory, "scheduler/scheduler_config.json")
    if name is None:
        config = read_json(path)
        name = str(config.get("_class_name") if isinstance(config, dict) else None)
    known = list(allowed)
    if known and name not in known:
        raise BadInput(f"scheduler in {path}: {name!r} is unknown; allowed: {listing(known)}")
    diffusers = importlib.import_module("diffusers")
    kind: Any = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise BadInput(f"scheduler {name} of {directory} is none of diffusers'; name one of those in model_index.json")
    try:
        return getattr(diffusers, name).from_pretrained(path.parent, local_files_only=True)
    except UNREADABLE as error:
        raise BadInput(f"{path} cannot be read as a {name}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """An error of another library in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_there(directory: Path, *names: str) -> None:
    if not any((directory / name).is_file() for name in names):
        raise BadInput(f"{directory} is not a complete pipeline: {names[0]} is missing")


def _check_class(directory: Path, part: str, allowed: tuple[str, ...]) -> None:
    """Raise BadInput unless both the pipeline's index and the part's own configuration name an allowed class."""
    found = named_class(read_index(directory), part)
    if found not in allowed:
        raise BadInput(f"{part} of {directory} is a {found}; this family reads a {listing(allowed)}")
    config = read_json(directory / part / "config.json")
    # transformers writes "architectures" instead, and those of the model that the part was cut out of.
    said = config.get("_class_name", found) if isinstance(config, dict) else None
    if said not in allowed:
        raise BadInput(
            f"{directory / part} holds a {said}; needed is {listing(allowed)}: use a directory that diffusers wrote"
        )


def _check_weights(directory: Path, part: str, stem: str) -> None:
    folder = directory / part
    if any((folder / (stem + ending)).is_file() for ending in WHOLE + HALF):
        return
    pickles = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickles:
        raise BadInput(
            f"{folder} holds pickled weights only ({pickles[0]}), and a pickle can run code when it is read; convert "
            f'it where you trust it: python -c "from diffusers import DiffusionPipeline as P; '
            f"P.from_pretrained('{directory}').save_pretrained('{directory}-safetensors')\""
        )
    raise BadInput(f"{directory} is not a complete pipeline: {part}/{stem}.safetensors is missing")
