"""A pipeline that is one safetensors file: diffusers converts its keys, and a directory says how it is built.

The file holds the denoiser, and as a rule VAE and text encoders under the names of their first publication. It does
not say how they are built: that is in a pipeline directory, by default the one of the Hub that diffusers infers from
the keys. Parts that the file lacks are read from there too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders import single_file_utils as published
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from erasediff.errors import BadInput
from erasediff.families import hub
from erasediff.families.muted import muted
from erasediff.families.reading import (
    UNREADABLE,
    check_finite,
    first_line,
    named_class,
    read_index,
    read_scheduler,
)
from erasediff.families.words import quiet
from erasediff.files import sha256, weight_hashes

DENOISERS = ("unet", "transformer")  # what a file holds at least
UNSEEN = ("safety_checker", "feature_extractor", "image_encoder")  # never in a file, and nothing here asks them
HINT = "give --model_config DIR|HUB_ID, a pipeline of the same architecture, which says it"


def held(file: Path) -> dict[str, Tensor]:
    """The names and shapes in ``file``, without its numbers. Raises BadInput for one that is no safetensors file."""
    try:
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            shapes = {name: opened.get_slice(name).get_shape() for name in names}
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{file} cannot be read as safetensors: {first_line(error)}") from error
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def configuration(file: Path, config: str | Path | None) -> Path:
    """The pipeline directory that says how the model in ``file`` is built: ``config``, or the one diffusers infers.

    Raises BadInput for a file that is no model, and where there is no such directory.
    """
    names = held(file)
    _check_whole(file, names)
    if config is None:
        wanted = inferred(file, names)
        try:
            return _fetched(wanted, names, f"{file} does not say how it is built, and what diffusers asks, {wanted},")
        except BadInput as error:
            raise BadInput(f"{error}; {HINT}") from error
    place = (
        _fetched(str(config), names, f"model_config {str(config)!r} is no path here, and")
        if hub.is_id(config)
        else Path(config)
    )
    found = next((p for p in (place, place / "model") if (p / "model_index.json").is_file()), None)
    if found is None:
        raise BadInput(f"model_config {config} is no pipeline directory (no model_index.json) and no Hub id; {HINT}")
    return found


def inferred(file: Path, names: Mapping[str, Tensor]) -> str:
    """The Hub id whose configuration diffusers takes for a file with these keys. Raises BadInput where it knows none.

    Keys that diffusers does not know pass there for Stable Diffusion 1; here they need that one's prefix.
    """
    try:
        found = published.fetch_diffusers_config(dict(names))["pretrained_model_name_or_path"]
    except (*UNREADABLE, IndexError, UnboundLocalError):
        found = None
    default = published.DIFFUSERS_DEFAULT_PIPELINE_PATHS["v1"]["pretrained_model_name_or_path"]
    known = found != default or any(name.startswith(published.LDM_UNET_KEY) for name in names)
    if found is None or not known:
        raise BadInput(
            f"{file} holds no pipeline that diffusers knows by its keys (the first is {min(names, default='none')}); "
            f"if it is the denoiser of one, {HINT}"
        )
    return str(found)


def read(kind: Any, file: Path, config: Path) -> Any:
    """The model of the class ``kind`` (a :class:`~erasediff.families.worded.Worded`) in ``file``, in float32.

    ``config``: see :func:`configuration`. Raises BadInput for parts that are missing, incomplete, of other sizes or
    not finite. Weights must be safetensors; no code is run.
    """
    index, names = read_index(config), held(file)
    beside = {name: part for name, part in kind.PARTS.items() if not _is_in(name, named_class(index, name), names)}
    taken = set(kind.PIPELINE._get_signature_keys(kind.PIPELINE)[0])
    given: dict[str, Any] = {name: None for name in UNSEEN if name in taken}
    with muted("diffusers"), quiet():
        given["scheduler"] = read_scheduler(config, named_class(index, "scheduler"))
        given |= {name: _beside(file, config, name, part) for name, part in beside.items()}
        try:
            pipeline = kind.PIPELINE.from_single_file(str(file), config=str(config), local_files_only=True, **given)
        except (*UNREADABLE, published.SingleFileComponentError, IndexError, AttributeError) as error:
            raise BadInput(f"{file} is no {kind.PIPELINE.__name__} as {config} configures it: {_why(error)}") from error
    for name in kind.PARTS:
        if isinstance(module := getattr(pipeline, name), nn.Module):
            _check_complete(module, f"{name} of {file}")
            module.float().eval()
    return kind.wrap(pipeline)


def hashes(file: Path, config: Path) -> dict[str, str]:
    """SHA-256 of ``file``, and of the weights of parts that it lacks, by their path below ``config``."""
    lacking = _lacking(config, held(file))
    below = {f"{name}/{path}": sha for name in lacking for path, sha in weight_hashes(config / name).items()}
    return {file.name: sha256(file), **below}


def _fetched(hub_id: str, names: Mapping[str, Tensor], what: str) -> Path:
    """The configuration of a Hub id, with the weights of the parts that the file with ``names`` lacks."""
    found = hub.snapshot(hub_id, hub.CONFIGURATION, what)
    if not (found / "model_index.json").is_file():
        return found
    weights = [f"{part}/*.safetensors" for part in _lacking(found, names)]
    return hub.snapshot(hub_id, [*hub.CONFIGURATION, *weights], what) if weights else found


def _lacking(config: Path, names: Mapping[str, Tensor]) -> list[str]:
    """The parts with weights that ``config`` speaks of and the file with ``names`` lacks."""
    index = read_index(config)
    kinds = {name: named_class(index, name) for name in index if name not in UNSEEN}
    modules = [n for n, kind in kinds.items() if (config / n / "config.json").is_file() and kind != "None"]
    return [name for name in modules if not _is_in(name, kinds[name], names)]


def _check_whole(file: Path, names: Mapping[str, Tensor]) -> None:
    if any("lora" in name.lower() for name in names):
        raise BadInput(
            f"{file} is a LoRA, a change of a model and no model by itself; give the run directory it is from, or its "
            "base with it merged in: load_lora_weights, fuse_lora, unload_lora_weights and save_pretrained of diffusers"
        )


def _is_in(name: str, kind: str, names: Mapping[str, Tensor]) -> bool:
    """Whether the part ``name`` of the class ``kind`` is among ``names``, as diffusers looks for it."""
    if name in DENOISERS:
        return True
    if name == "vae":
        return any(key.startswith(tuple(published.LDM_VAE_KEYS)) for key in names)
    clip = published.is_clip_model_in_single_file(SimpleNamespace(__name__=kind), names)
    return bool(clip or (kind == "T5EncoderModel" and published.is_t5_in_single_file(names)))


def _beside(file: Path, config: Path, name: str, part: Any) -> Any:
    """A part that is not in ``file``. Raises BadInput where it is not in ``config`` either."""
    if part.optional and (named_class(read_index(config), name) == "None" or not _weighs(config / name)):
        if named_class(read_index(config), name) != "None":
            warnings.warn(f"neither {file} nor {config} has the {name}: the model is read without it", stacklevel=2)
        return None
    try:
        return part.read(config, name)
    except BadInput as error:
        raise BadInput(
            f"{file} holds no {name}, and it cannot be read from the configuration: {error}; give --model_config DIR, "
            "a pipeline directory with the weights of that part"
        ) from error


def _weighs(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("*token*")) or any(folder.glob("*.model"))


def _check_complete(module: nn.Module, what: str) -> None:
    # diffusers leaves what a file lacks without numbers, and only logs it.
    absent = sorted(name for name, weight in module.state_dict().items() if weight.is_meta)
    if absent:
        raise BadInput(f"{what} lacks weights of a {type(module).__name__}: {len(absent)}, the first is {absent[0]}")
    check_finite(module, Path(what))


def _why(error: Exception) -> str:
    """What diffusers' error means, where it does not say so: it looks up names, and moves weights that never came."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return "it lacks weights of that" if isinstance(error, NotImplementedError) else first_line(error)
