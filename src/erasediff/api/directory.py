"""Run directories: what a run writes where, and who may write there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erasediff.errors import BadInput, listing
from erasediff.files import read_json, writable, write_json
from erasediff.provenance import RUN_SCHEMA

CACHE = "cache"
AUDIT = "audit.json"


@dataclass(frozen=True)
class RunDirectory:
    """``model/`` or ``lora/``, ``run.json``, ``metrics.jsonl``, ``README.md`` and ``checkpoints/`` below ``path``."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def lora(self) -> Path:
        return self.path / "lora"

    @property
    def output(self) -> Path:
        """What a MODEL argument that names this run reads: model/ where there is one, else lora/."""
        return self.lora if self.lora.is_dir() and not self.model.is_dir() else self.model

    @property
    def record(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def card(self) -> Path:
        return self.path / "README.md"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def audit(self) -> Path:
        """Where the audit of this run is looked for."""
        return self.path / "audit"

    @property
    def earlier_cost(self) -> Path:
        """What the run had cost before it was resumed; run.json counts only what its last process did."""
        return self.path / "earlier_cost.json"

    @property
    def generated(self) -> Path:
        """Where images are kept that the model drew to show its targets."""
        return self.path / "generated"

    def only_prepared(self) -> bool:
        """Whether nothing but drawn images and caches is here: a run that was stopped before it began."""
        found = {p.name for p in self.path.iterdir()} if self.path.is_dir() else set()
        return bool(found) and found <= {self.generated.name, CACHE}

    def claim(self, record: Mapping[str, Any], *, overwrite: bool, resume: bool) -> None:
        """Make sure that the run of ``record`` may be written here; nothing is written yet. Raises BadInput."""
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"output_dir {self.path} is a file; give a directory")
        base = (record.get("base_model") or {}).get("source")
        if base and self._replaces(Path(base)):
            raise BadInput(f"output_dir {self.path} holds the model that the run begins with; give another directory")
        if resume and not self.record.exists():
            raise BadInput(f"{self.path} holds no run to resume; leave out --resume_from_checkpoint to start one")
        if self.record.exists() and not overwrite and not resume:
            raise BadInput(
                f"output_dir {self.path} already holds a run; give another directory, --overwrite to replace it, "
                "or --resume_from_checkpoint latest to go on"
            )
        held = self.path.exists() and any(self.path.iterdir())
        occupied = held and not self.record.exists() and not self.only_prepared()
        if occupied and not overwrite:
            raise BadInput(f"output_dir {self.path} is not empty and holds no run; give another one, or --overwrite")

    def _replaces(self, model: Path) -> bool:
        """Whether a run that is written here would take the place of ``model``."""
        inside = (self.model, self.lora, self.checkpoints)
        return model.resolve() == self.path.resolve() or any(
            model.resolve().is_relative_to(p.resolve()) for p in inside
        )

    def open(self, record: dict[str, Any], *, fresh: bool) -> None:
        """Create the directory and write ``run.json``; ``fresh`` removes what an earlier run left.

        Drawn images stay where this run was shown some: they are its own by now.
        """
        with writable(self.path):
            if fresh:
                kept = [] if record.get("shown") else [self.generated]
                # An audit of the model that was here says nothing of the one that comes.
                audit = [self.audit] if (self.audit / AUDIT).is_file() else []
                for old in (self.model, self.lora, self.checkpoints, *audit, *kept):
                    shutil.rmtree(old, ignore_errors=True)
                for file in (self.metrics, self.card, self.record, self.earlier_cost):
                    file.unlink(missing_ok=True)
            self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.record, record)

    def read(self) -> dict[str, Any]:
        """The content of run.json. Raises BadInput where there is none."""
        record = read_json(self.record)
        if not isinstance(record, dict) or "kind" not in record:
            raise BadInput(f"{self.record} is not the record of a run")
        if record.get("schema") != RUN_SCHEMA:
            raise BadInput(f"{self.record} has schema {record.get('schema')!r}; this version reads {RUN_SCHEMA}")
        return record


def refuse_occupied(place: Path, names: Iterable[str], *, overwrite: bool, what: str = "") -> None:
    """Raise BadInput if ``place`` is a file, or holds one of ``names`` and is not to be overwritten."""
    if place.exists() and not place.is_dir():
        raise BadInput(f"output_dir {place} is a file; give a directory")
    there = [name for name in names if (place / name).exists()]
    if there and not overwrite:
        held = f"{what} ({listing(there)})" if what else listing(there)
        raise BadInput(f"output_dir {place} already holds {held}; give another one, or --overwrite")


def read_run(path: str | Path | None) -> tuple[RunDirectory, dict[str, Any]]:
    """The run in ``path`` (a run directory, or its model/ or lora/; ``None``: of a model that came from nowhere).

    Raises BadInput when there is none.
    """
    if path is None:
        raise BadInput("the model was given in memory, so no run.json belongs to it")
    given = Path(path)
    for candidate in (given, given.parent):
        if (candidate / "run.json").is_file():
            directory = RunDirectory(candidate)
            return directory, directory.read()
    raise BadInput(f"{given} is no run directory (no run.json)")
