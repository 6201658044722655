"""Model families: how each kind of diffusion model is loaded, noised, asked and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erasediff.errors import BadInput, listing
from erasediff.families import hub
from erasediff.families.entries import FAMILIES, Family
from erasediff.files import read_json, weight_hashes

__all__ = ["FAMILIES", "Family", "adopt", "family_of", "hashes", "load", "locate"]

INDEX = "model_index.json"
PICKLES = ("ckpt", "bin", "pt", "pth", "pkl")
ONE_FILE = (".safetensors", ".sft")


def _refuse_file(path: Path) -> BadInput:
    """The refusal of a file that is none of :data:`ONE_FILE`."""
    if path.suffix.lstrip(".").lower() in PICKLES:
        command = (
            f"python -c \"from diffusers import StableDiffusionPipeline as P; P.from_single_file('{path}')"
            ".save_pretrained('model')\""
        )
        return BadInput(
            f"{path} is a pickle, which can run code when it is read, and is never read here; if you trust where it "
            f"comes from, convert it where that may happen: {command}"
        )
    return BadInput(f"{path} is no model; of single files those are read that end in {listing(ONE_FILE)}")


def locate(source: str | Path) -> Path:
    """What holds the weights behind a MODEL argument: a pipeline directory, the ``lora/`` of a run, or one file.

    That is the argument itself, ``model/`` or ``lora/`` of a run directory, or a Hub id's snapshot. A Hub id is
    ``owner/name`` or ``owner/name@revision``; a path of that form that exists is the path.
    Raises BadInput for what does not exist or holds no pipeline.
    """
    from erasediff.families.lora import holds_lora

    path = hub.snapshot(str(source)) if hub.is_id(source) else Path(source)
    if path.is_file():
        if path.suffix.lower() not in ONE_FILE:
            raise _refuse_file(path)
        return path
    if not path.exists():
        raise BadInput(
            f"model {str(source)!r} does not exist; give a diffusers pipeline directory, a run directory, a "
            ".safetensors file or a Hub id"
        )
    for candidate in (path, path / "model"):
        if (candidate / INDEX).is_file():
            return candidate
    for candidate in (path, path / "lora"):
        if holds_lora(candidate):
            return candidate
    raise BadInput(f"{path} is no diffusers pipeline (no model_index.json) and no run directory (no model/, no lora/)")


def family_of(directory: Path, config: str | Path | None = None) -> Family:
    """The family that reads what :func:`locate` found: by the ``_class_name`` of its model_index.json, or its base's.

    ``config``: where the configuration of a single file is, if not where diffusers looks for it.
    """
    from erasediff.families import adapted

    if directory.is_file():
        return _of_file(directory, config)[0]
    if not (directory / INDEX).is_file():
        return family_of(*adapted.base_of(directory))
    index = read_json(directory / INDEX)
    name = index.get("_class_name") if isinstance(index, dict) else None
    name = name[-1] if isinstance(name, list) else name
    known = {p: family for family in FAMILIES.values() for p in family.pipelines}
    if name not in known:
        raise BadInput(f"{directory} is a {name} pipeline, which no family reads; read are: {listing(sorted(known))}")
    return known[name]


def load(source: str | Path, config: str | Path | None = None) -> Any:
    """Load the model behind a MODEL argument, a LoRA merged into its base. Code found in it is never executed.

    ``config``: for a single file, see :func:`family_of`.
    """
    from erasediff.families import adapted

    directory = locate(source)
    if directory.is_file():
        family, place = _of_file(directory, config)
        return family.load_file(directory, place) if family.load_file else None
    return family_of(directory).load(directory) if (directory / INDEX).is_file() else adapted.load(directory)


def _of_file(file: Path, config: str | Path | None) -> tuple[Family, Path]:
    """The family that reads a single file, and the directory that says how the model in it is built."""
    from erasediff.families import one_file

    place = one_file.configuration(file, config)
    family = family_of(place)
    if family.load_file is None:
        able = [p for f in FAMILIES.values() if f.load_file for p in f.pipelines]
        raise BadInput(
            f"{file} is to be read as {listing(family.pipelines)}, which diffusers reads from directories only; from a "
            f"single file it reads: {listing(sorted(able))}; give a pipeline directory"
        )
    return family, place


def hashes(source: Path, config: str | Path | None = None) -> dict[str, str]:
    """SHA-256 of every file of weights of what :func:`locate` found, by relative path."""
    from erasediff.families import one_file

    if source.is_file():
        return one_file.hashes(source, one_file.configuration(source, config))
    return weight_hashes(source)


def adopt(pipeline: Any) -> Any:
    """Adapt a copy of a diffusers pipeline object; the one given is left alone. Raises BadInput for other things."""
    known = {p: family for family in FAMILIES.values() for p in family.pipelines}
    name = type(pipeline).__name__
    if name not in known:
        raise BadInput(f"a {name} is no pipeline that a family reads; read are: {listing(sorted(known))}, or a path")
    for part, module in pipeline.components.items():
        if any(".base_layer." in key for key, _ in getattr(module, "named_parameters", dict)()):
            raise BadInput(
                f"a LoRA is attached to {part} of the pipeline; call fuse_lora() and then unload_lora_weights() first, "
                "or peft's merge_and_unload()"
            )
    return known[name].adopt(pipeline)
