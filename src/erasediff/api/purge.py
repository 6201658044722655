"""``purge``: delete from a run what still holds the forgotten data."""

from __future__ import annotations

import shutil
from pathlib import Path

from erasediff.api.directory import read_run
from erasediff.errors import BadInput, listing
from erasediff.files import writable, write_json

HOLDERS = ("checkpoints", "cache", "base", "generated", "audit/cache")


def purge(run: str | Path) -> tuple[list[Path], list[str]]:
    """Delete checkpoints, caches (that of its audit too), drawn images and a copied base model below a finished run.

    Returns what was removed, and notes on what still knows the target but lies outside the run.
    Raises BadInput for a directory that is no run, and for one that is not finished: it could not be resumed any more.
    """
    directory, record = read_run(run)
    if record.get("status") != "completed":
        raise BadInput(
            f"{directory.path} is {record.get('status')}, not completed; "
            "finish it with --resume_from_checkpoint latest, or delete the directory"
        )
    removed = []
    with writable(directory.path):
        for name in HOLDERS:
            path = directory.path / name
            if path.is_dir():
                shutil.rmtree(path)
                removed.append(path)
        staging = [p for p in directory.path.glob(".*.*") if p.is_dir()]  # left behind by a kill in mid-write
        for path in staging:
            shutil.rmtree(path)
            removed.append(path)
    names = [p.relative_to(directory.path).as_posix() for p in removed]
    write_json(directory.record, {**record, "purged": names + list(record.get("purged", []))})
    source = (record.get("base_model") or {}).get("source")
    notes = [f"the base model still knows the target: {source}"] if source else []
    if directory.output == directory.lora:
        notes.append(
            "this run is a LoRA on it and cannot do without it; `erasediff export RUN --to full` merges the two"
        )
    data = (record.get("shown") or {}).get("sources", [record.get("data", {}).get("spec")])
    if data:
        notes.append(f"the data itself is not touched: {listing(data)}")
    return removed, notes
