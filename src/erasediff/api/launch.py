"""What train and erase share: claim the directory, find the checkpoint, start the session, drive it to its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from erasediff.api.directory import RunDirectory
from erasediff.api.run import Run, complete, resumed
from erasediff.data.pairs import Pairs
from erasediff.data.sources import ImageData
from erasediff.families.base import Model
from erasediff.methods.base import GradientMethod
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import start
from erasediff.training.processes import Processes


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be run. ``retain`` and ``forget`` are data indices; nothing is forgotten where ``forget`` is None.

    ``initial``: what makes the weights, by name, that the steps begin at instead of the model's own.
    """

    model: Model
    method: GradientMethod
    data: ImageData
    retain: Tensor
    forget: Tensor | None
    config: TrainingConfig
    dropout: bool = False
    initial: Callable[[], Mapping[str, Tensor]] | None = None


def launch(
    job: Job,
    record: dict[str, Any],
    *,
    title: str,
    output_dir: str | Path | None,
    overwrite: bool,
    resume_from_checkpoint: str | None,
    quiet: bool,
    dry_run: bool = False,
) -> Run:
    """Run ``job``; nothing is written before everything that can be refused has been."""
    config, resuming = job.config, resume_from_checkpoint is not None
    place = RunDirectory(Path(output_dir)) if output_dir is not None else None
    if place is not None:
        place.claim(overwrite=overwrite, resume=resuming)
    if dry_run:
        return Run(job.model, [], {**record, "status": "planned"})
    checkpoint = resumed(place, record, resume_from_checkpoint) if place is not None else None
    processes = Processes.start(report_to=config.report_to, directory=place.path if place else None)
    pairs = Pairs(
        job.data,
        job.retain,
        job.forget,
        batch_size=config.train_batch_size * config.gradient_accumulation_steps,
        seed=config.seed,
        device=processes.device,
        rank=processes.rank,
        world=processes.world,
    )
    initial = job.initial() if job.initial is not None else None
    session = start(
        job.model,
        job.method,
        pairs,
        config,
        processes=processes,
        dropout=job.dropout,
        checkpoint=checkpoint,
        initial=initial,
    )
    if place is not None and processes.is_main:
        place.open(record, fresh=checkpoint is None)
    return complete(session, record, place, title=title, quiet=quiet)
