"""A finished run: its pipeline, its history, its record; and what train and erase share in making one."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import torch

from erasediff.api.directory import RunDirectory
from erasediff.api.weights import keep
from erasediff.errors import BadInput, Interrupted, StoppedShort, unknown
from erasediff.families.base import Model
from erasediff.families.lora import Lora
from erasediff.files import write_json
from erasediff.provenance import RUN_SCHEMA, machine, versions
from erasediff.training.callbacks import Callback, MetricsFile, Progress, Tracker
from erasediff.training.checkpoint import Checkpoint, find, listed
from erasediff.training.config import TrainingConfig
from erasediff.training.fit import Outcome, fit
from erasediff.training.loop import Session

# What may change between a run and its resumption without making it another run.
MAY_DIFFER = {"max_train_steps", "checkpointing_steps", "checkpoints_total_limit", "report_to"}


@dataclass
class Run:
    """What ``train`` and ``erase`` return.

    ``model`` carries the weights that were saved (the average, where EMA is on); ``history`` has a dictionary a
    step; ``record`` is the content of run.json; ``directory`` is ``None`` for a run that was kept in memory. ``lora``
    is the LoRA where one was trained; ``model`` has it merged into its weights.
    """

    model: Model
    history: list[dict[str, float]]
    record: dict[str, Any]
    directory: Path | None = None
    stopped_short: bool = field(default=False)
    lora: Lora | None = None

    @property
    def output(self) -> Path | None:
        """model/ or lora/ of the run's directory; ``None`` for a run that was kept in memory."""
        return RunDirectory(self.directory).output if self.directory is not None else None

    @property
    def pipeline(self) -> Any:
        """A diffusers pipeline over the same weights."""
        return self.model.pipeline()

    def save(self, directory: str | Path) -> Path:
        """Write model/ (or lora/), run.json and README.md below ``directory``.

        Raises BadInput where a run is there already.
        """
        place = RunDirectory(Path(directory))
        place.claim(self.record, overwrite=False, resume=False)
        place.open(self.record, fresh=True)
        keep(self.model, self.lora, self.record, place)
        return place.path


def new_record(kind: str, config: TrainingConfig, **entries: Any) -> dict[str, Any]:
    """The beginning of a run.json."""
    return {
        "schema": RUN_SCHEMA,
        "kind": kind,
        "status": "running",
        **entries,
        "training": asdict(config.decided()),
        "seed": config.seed,
        "versions": versions(),
        "machine": {**machine(), "torch_threads": torch.get_num_threads()},
    }


def resumed(place: RunDirectory, record: dict[str, Any], wanted: str | None) -> Checkpoint | None:
    """The checkpoint to go on from, after making sure that it belongs to the same run. Raises BadInput."""
    if wanted is None:
        return None
    before = place.read()
    for key in ("kind", "target", "method", "data", "base_model", "architecture", "asked", "init"):
        if before.get(key) != record.get(key):
            raise BadInput(f"cannot resume {place.path}: its {key} was {before.get(key)}, now given {record.get(key)}")
    then = {**asdict(TrainingConfig()), **before["training"]}  # a run of before a field existed had its default
    for key, value in record["training"].items():
        if key not in MAY_DIFFER and then[key] != value:
            raise BadInput(f"cannot resume {place.path}: its {key} was {then[key]}, now given {value}")
    return find(place.checkpoints, wanted)


def complete(
    session: Session,
    record: dict[str, Any],
    place: RunDirectory | None,
    *,
    title: str,
    quiet: bool = False,
) -> Run:
    """Drive a session to its end, save what it leads to, and say how it ended.

    Raises Interrupted (state saved) and StoppedShort (diverged; the last good checkpoint is kept).
    """
    callbacks: list[Callback] = []
    main = session.context.processes.is_main
    if main:
        callbacks.append(Progress(session.config.max_train_steps, session.step, title, disable=quiet))
        if place is not None:
            callbacks.append(MetricsFile(place.metrics, session.step))
    callbacks.append(Tracker(session.context.processes))
    began, first = time.perf_counter(), session.step
    outcome = fit(session, callbacks, place.checkpoints if place is not None else None)
    record = {**record, "status": "completed", **_ending(session, outcome, time.perf_counter() - began, first)}
    if outcome.stop.reason in ("interrupted", "diverged"):
        _raise_short(outcome, place, record, main)
    if session.average is not None:
        session.average.apply()
    lora = None if session.adapters is None else session.adapters.merge()
    session.model.denoiser.eval().requires_grad_(True)
    if place is not None and main:
        record = keep(session.model, lora, record, place)
    session.context.processes.wait()
    directory = place.path if place is not None else None
    return Run(session.model, outcome.history, record, directory, outcome.stop.short, lora)


def _ending(session: Session, outcome: Outcome, seconds: float, first: int) -> dict[str, Any]:
    context, preparation = session.context, session.preparation_seconds
    return {
        "steps": outcome.steps,
        "stopped": {"reason": outcome.stop.reason, "detail": outcome.stop.detail},
        "cost": {
            "seconds": preparation + seconds,
            "preparation_seconds": preparation,
            "steps": outcome.steps - first,
            "forward_equivalents": context.spent / session.pairs.batch_size,
            "peak_memory_bytes": peak_memory(),
        },
    }


def peak_memory() -> int:
    """The most bytes held so far: by the GPU's tensors where there is a GPU, else by this process."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _raise_short(outcome: Outcome, place: RunDirectory | None, record: dict[str, Any], main: bool) -> None:
    reason, detail = outcome.stop.reason, outcome.stop.detail
    if place is not None and main:
        write_json(place.record, {**record, "status": reason})
    if reason == "interrupted":
        saved = f"state saved in {outcome.checkpoint}" if place is not None else "nothing was saved: no output_dir"
        raise Interrupted(f"interrupted at step {outcome.steps}; {saved}")
    earlier = listed(place.checkpoints) if place is not None else []
    kept = f"last good checkpoint: {earlier[-1]}" if earlier else "no checkpoint had been written"
    raise StoppedShort(f"the run diverged: {detail}; {kept}; try a smaller --learning_rate")


def with_fields(config: TrainingConfig | None, default: TrainingConfig, fields: dict[str, Any]) -> TrainingConfig:
    """``config``, or ``default`` with the given fields replaced. Raises BadInput for an unknown field."""
    check_fields("training field", TrainingConfig, fields)
    return replace(config or default, **fields)


def check_fields(what: str, kind: type, given: Iterable[str]) -> None:
    """Raise BadInput for a name in ``given`` that is no field of the dataclass ``kind``."""
    allowed = [f.name for f in fields_of(kind)]
    for name in given:
        if name not in allowed:
            raise unknown(what, name, allowed)
