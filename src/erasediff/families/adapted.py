"""A run whose result is a LoRA: its base is found again, checked and loaded, and the LoRA merged into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erasediff import families
from erasediff.errors import BadInput
from erasediff.families import lora
from erasediff.files import read_json, weight_hashes


def base_of(directory: Path) -> Path:
    """Where the base of the LoRA in ``directory`` is, by the run.json beside it. Raises BadInput if it is gone."""
    beside = directory.absolute().parent / "run.json"
    if not beside.is_file():
        raise BadInput(
            f"{directory} holds a LoRA and nothing says what it was trained on (no {beside}); give its run directory, "
            "or a whole model"
        )
    record = read_json(beside)
    source = (record.get("base_model") or {}).get("source")
    relative = (record.get("lora") or {}).get("base")
    candidates = [Path(str(source)), *([beside.parent / relative] if relative else [])]
    found = next((place for place in candidates if place.exists()), None)
    if found is None:
        raise BadInput(
            f"{beside.parent} holds a LoRA on {source}, which is gone: put it back there; without its base a LoRA is "
            "no model"
        )
    return families.locate(found)


def load(directory: Path) -> Any:
    """The base of the LoRA in ``directory`` with the LoRA merged into it.

    Raises BadInput where the base is gone, or is not what the LoRA was trained on.
    """
    base = base_of(directory)
    recorded = (read_json(directory.absolute().parent / "run.json").get("base_model") or {}).get("sha256") or {}
    found = weight_hashes(base)
    changed = sorted(name for name in recorded.keys() | found.keys() if recorded.get(name) != found.get(name))
    if changed:
        raise BadInput(
            f"{base} is not what the LoRA in {directory} was trained on: {changed[0]} has changed; put the weights "
            "back, or train the LoRA again on these"
        )
    model = families.load(base)
    lora.read(directory).merge(model.denoiser)
    return model
