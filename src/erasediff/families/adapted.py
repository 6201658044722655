"""A run whose result is a LoRA: its base is found again, checked and loaded, and the LoRA merged into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erasediff import families
from erasediff.errors import BadInput
from erasediff.families import lora
from erasediff.files import read_json


def base_of(directory: Path) -> tuple[Path, str | None]:
    """Where the base of the LoRA in ``directory`` is, by the run.json beside it, and what says how a file is built.

    A base of the Hub that is no longer in the cache is fetched again. Raises BadInput if it is gone.
    """
    beside = directory.absolute().parent / "run.json"
    if not beside.is_file():
        raise BadInput(
            f"{directory} holds a LoRA and nothing says what it was trained on (no {beside}); give its run directory, "
            "or a whole model"
        )
    record = read_json(beside)
    base = record.get("base_model") or {}
    source, hub_id = base.get("source"), base.get("id")
    relative = (record.get("lora") or {}).get("base")
    candidates = [Path(str(source)), *([beside.parent / relative] if relative else [])]
    found = next((place for place in candidates if place.exists()), None)
    if found is None and hub_id:
        return families.locate("@".join(filter(None, (hub_id, base.get("revision"))))), None
    if found is None:
        raise BadInput(
            f"{beside.parent} holds a LoRA on {source}, which is gone: put it back there; without its base a LoRA is "
            "no model"
        )
    return families.locate(found), base.get("config")


def load(directory: Path) -> Any:
    """The base of the LoRA in ``directory`` with the LoRA merged into it.

    Raises BadInput where the base is gone, or is not what the LoRA was trained on.
    """
    base, config = base_of(directory)
    recorded = (read_json(directory.absolute().parent / "run.json").get("base_model") or {}).get("sha256") or {}
    found = families.hashes(base, config)
    changed = sorted(name for name in recorded.keys() | found.keys() if recorded.get(name) != found.get(name))
    if changed:
        raise BadInput(
            f"{base} is not what the LoRA in {directory} was trained on: {changed[0]} has changed; put the weights "
            "back, or train the LoRA again on these"
        )
    model = families.load(base, config)
    lora.read(directory).merge(model.denoiser)
    return model
