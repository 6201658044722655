"""Carry a model's weights between machines that take a few MiB at a time.

    python experiments/cifar10/shards.py split runs/cifar10/base/model carried --mib 30
    python experiments/cifar10/shards.py join carried runs/cifar10/base/model

``split`` writes bf16 safetensors of at most so many MiB each, the model's JSON files, and ``index.json`` with the
SHA-256 of everything. ``join`` makes a plain diffusers directory with fp32 weights of them. Half of the bits are lost
on the way: the weights that come back are the old ones rounded to bf16. Exit code 2: files missing, damaged or mixed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from erasediff import families
from erasediff.errors import BadInput, EraseDiffError
from erasediff.files import read_json, sha256, staged_directory, write_json

INDEX, SCHEMA = "index.json", 1
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIGS = ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json")
MIB = 2**20
HEADER = 200  # bytes that safetensors spends on naming one tensor, at the most, besides the name itself


def split(model: Path, directory: Path, *, mib: float) -> int:
    """Write the shards of ``model`` into the new ``directory``; returns how many. Raises BadInput."""
    for needed in (*CONFIGS, f"unet/{WEIGHTS}"):
        if not (model / needed).is_file():
            raise BadInput(f"{model} has no {needed}; give the model/ of a run, a diffusers UNet2DModel pipeline")
    _refuse_occupied(directory)
    try:
        tensors = {name: _halved(t) for name, t in load_file(model / "unet" / WEIGHTS).items()}
    except SafetensorError as error:
        raise BadInput(f"{model / 'unet' / WEIGHTS} is damaged: {error}") from None
    groups = grouped(tensors, int(mib * MIB))
    with staged_directory(directory) as staging:
        files, held = {}, {}
        for number, names in enumerate(groups, start=1):
            path = staging / f"weights-{number:03}-of-{len(groups):03}.safetensors"
            save_file({name: tensors[name] for name in names}, path)
            files[path.name], held[path.name] = sha256(path), names
        for config in CONFIGS:
            path = staging / config.replace("/", "-")
            shutil.copyfile(model / config, path)
            files[path.name] = sha256(path)
        write_json(staging / INDEX, {"schema": SCHEMA, "files": files, "weights": held})
    return len(groups)


def grouped(tensors: dict[str, Tensor], limit: int) -> list[list[str]]:
    """Names in order, cut wherever a file would exceed ``limit`` bytes. Raises BadInput where one tensor does."""
    groups: list[list[str]] = []
    room = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size() + len(name) + HEADER
        if size + HEADER > limit:
            least = -(-(size + HEADER) // MIB)
            raise BadInput(f"--mib {limit / MIB:g} is too little: {name} alone needs {least}; give at least that")
        if size > room:
            groups.append([])
            room = limit - HEADER
        groups[-1].append(name)
        room -= size
    return groups


def join(directory: Path, model: Path) -> int:
    """Put the model back together; returns how many tensors it has. Raises BadInput, and then nothing is written."""
    index = _index(directory)
    for name, digest in index["files"].items():
        path = directory / name
        if not path.is_file():
            raise BadInput(f"{path} is missing; carry every file that {INDEX} names ({len(index['files'])} in all)")
        if sha256(path) != digest:
            raise BadInput(f"{path} is damaged, or of another split than {INDEX}; carry it again, with its own index")
    _refuse_occupied(model)
    tensors: dict[str, Tensor] = {}
    for name, names in index["weights"].items():
        found = load_file(directory / name)
        if sorted(found) != sorted(names):
            raise BadInput(f"{directory / name} holds other weights than {INDEX} says; split the model again")
        tensors |= {k: t.float() if t.is_floating_point() else t for k, t in found.items()}
    with staged_directory(model) as staging:
        for config in CONFIGS:
            (staging / config).parent.mkdir(exist_ok=True)
            shutil.copyfile(directory / config.replace("/", "-"), staging / config)
        save_file(tensors, staging / "unet" / WEIGHTS)
        loaded = families.load(staging)  # its configuration and its weights fit each other, or this says why not
        if {k: t.shape for k, t in loaded.denoiser.state_dict().items()} != {k: t.shape for k, t in tensors.items()}:
            raise BadInput(f"{directory}: the weights are not those of the network that unet/config.json describes")
        if (
            loaded.conditions.num_classes
        ):  # the code of the pipeline comes from this package, never from what was carried
            source = resources.files("erasediff.families.pipelines") / "class_conditional_ddpm.py"
            (staging / "pipeline.py").write_text(source.read_text())
    return len(tensors)


def _halved(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor


def _index(directory: Path) -> dict[str, Any]:
    index = read_json(directory / INDEX)
    if not isinstance(index, dict) or index.get("schema") != SCHEMA or not index.get("weights"):
        raise BadInput(f"{directory / INDEX} is no index of shards (schema {SCHEMA}); split writes one")
    named = {*index["weights"], *(c.replace("/", "-") for c in CONFIGS)}
    if set(index["files"]) != named or any(Path(n).name != n for n in named):
        raise BadInput(f"{directory / INDEX} does not name the files that a split writes; split the model again")
    return index


def _refuse_occupied(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BadInput(f"{directory} is there already and not empty; give a new directory")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    splitting = verbs.add_parser("split", help="model/ of a run -> shards")
    splitting.add_argument("model", type=Path)
    splitting.add_argument("directory", type=Path)
    splitting.add_argument("--mib", type=float, default=30, help="size of a shard at the most, in MiB")
    joining = verbs.add_parser("join", help="shards -> model/ of a run")
    joining.add_argument("directory", type=Path)
    joining.add_argument("model", type=Path)
    arguments = parser.parse_args(argv)
    try:
        if arguments.verb == "split":
            count = split(arguments.model, arguments.directory, mib=arguments.mib)
            print(f"{arguments.directory}: {count} shards of at most {arguments.mib:g} MiB, and {INDEX}")
        else:
            print(f"{arguments.model}: {join(arguments.directory, arguments.model)} tensors, fp32")
    except EraseDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
