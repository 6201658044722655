"""``export``: a run's model in another form."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from erasediff import families
from erasediff.api.directory import read_run
from erasediff.api.inputs import check_config
from erasediff.errors import BadInput, check_one_of, listing
from erasediff.families import lora
from erasediff.files import staged_directory

Load = Callable[[], Any]
COMFYUI_FILE, SINGLE_FILE = "comfyui_lora.safetensors", "model.safetensors"
EXPORTED = {families.INDEX, lora.PIPELINE_FILE, lora.PEFT_FILE, COMFYUI_FILE, SINGLE_FILE}
"""What tells that a directory is an earlier export, or a pipeline."""


def export(
    run: str | Path,
    to: str,
    output_dir: str | Path,
    *,
    model_config: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the model of ``run`` to ``output_dir`` in the form ``to``, and return the directory.

    full: a diffusers pipeline, a LoRA merged into its weights. lora: the LoRA alone, as plain diffusers or peft reads
    it. comfyui: the LoRA under kohya's names, ``comfyui_lora.safetensors``. single_file: ``model.safetensors``, all
    weights in the layout of the first publication. ``run`` may be a single ``.safetensors`` file, built as
    ``model_config`` says (see :func:`erasediff.erase`). Raises BadInput for a form that its family or the run lacks.
    """
    check_one_of("--to", to, FORMS)
    check_config([run], model_config)
    directory = families.locate(run)
    family = families.family_of(directory, model_config)
    if to not in family.exports:
        raise BadInput(f"family {family.name} cannot be exported to {to}; it can to: {listing(family.exports)}")
    place = Path(output_dir)
    _check_place(place, directory, overwrite=overwrite)
    FORMS[to](directory, place, partial(families.load, directory, model_config))
    return place


def _check_place(place: Path, model: Path, *, overwrite: bool) -> None:
    """Raise BadInput unless ``place`` may be written: it is replaced as a whole, and not all can be spared."""
    if place.exists() and not overwrite:
        raise BadInput(f"output_dir {place} exists already; give another one, or --overwrite")
    if model.resolve().is_relative_to(place.resolve()):
        raise BadInput(f"output_dir {place} holds the model that is exported; give another one")
    held = [p.name for p in place.iterdir()] if place.is_dir() else []
    if held and not EXPORTED.intersection(held):
        raise BadInput(f"output_dir {place} holds {listing(sorted(held)[:3])}, which is no export; give another one")


def _full(directory: Path, place: Path, load: Load) -> None:  # noqa: ARG001
    load().save(place)


def _lora(directory: Path, place: Path, load: Load) -> None:  # noqa: ARG001
    adapters = _adapters(directory)
    with staged_directory(place) as staging:
        for file in adapters.iterdir():
            shutil.copyfile(file, staging / file.name)


def _comfyui(directory: Path, place: Path, load: Load) -> None:  # noqa: ARG001
    adapters = _adapters(directory)
    with staged_directory(place) as staging:
        lora.write_kohya(adapters, staging / COMFYUI_FILE)


def _single_file(directory: Path, place: Path, load: Load) -> None:
    model = load()
    write = families.FAMILIES[model.family].single_file
    if write is None:
        raise BadInput(f"{directory} has no layout as a single file; use --to full")
    with staged_directory(place) as staging:
        write(model, staging / SINGLE_FILE)


def _adapters(directory: Path) -> Path:
    """The LoRA behind what :func:`families.locate` found: a run may hold the merged model beside it."""
    try:
        place = read_run(directory)[0].lora
    except BadInput:
        place = directory
    if not lora.holds_lora(place):
        raise BadInput(
            f"{directory} holds whole weights and no LoRA; export it --to full, or erase again with --rank to get one"
        )
    return place


FORMS: dict[str, Callable[[Path, Path, Load], None]] = {
    "full": _full,
    "lora": _lora,
    "single_file": _single_file,
    "comfyui": _comfyui,
}
