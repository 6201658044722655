"""What train and erase share: claim the directory, find the checkpoint, start the session, drive it to its end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erasediff.api.directory import CACHE, RunDirectory
from erasediff.api.drawing import drawn
from erasediff.api.latents import LATENTS, latents_of
from erasediff.api.run import Run, complete, resumed
from erasediff.api.showing import Shown
from erasediff.data.images import ImageData
from erasediff.data.pairs import Pairs
from erasediff.errors import BadInput
from erasediff.families.base import Model
from erasediff.methods.base import GradientMethod
from erasediff.training.checkpoint import Checkpoint
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import Session, start
from erasediff.training.processes import Processes


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be run. ``retain`` and ``forget`` are data indices; nothing is forgotten where ``forget`` is None.

    ``shown``: what the images of ``data`` are still to be put together of, where some must be drawn first.
    ``initial``: what makes the weights, by name, that the steps begin at instead of the model's own.
    """

    model: Model
    method: GradientMethod
    data: ImageData
    retain: Tensor
    forget: Tensor | None
    config: TrainingConfig
    dropout: bool = False
    shown: Shown | None = None
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
    config = job.config
    place = RunDirectory(Path(output_dir)) if output_dir is not None else None
    if place is not None and place.only_prepared():
        resume_from_checkpoint = None  # stopped while drawing: there is no run yet
    resuming = resume_from_checkpoint is not None
    if place is not None:
        place.claim(record, overwrite=overwrite, resume=resuming)
    if dry_run:
        return Run(job.model, [], {**record, "status": "planned"})
    checkpoint = resumed(place, record, resume_from_checkpoint) if place is not None else None
    processes = Processes.start(report_to=config.report_to, directory=place.path if place else None)
    with _nothing_left_if_refused(place if checkpoint is None else None):
        session = _session(job, place, checkpoint, processes, quiet=quiet)
    if place is not None and processes.is_main:
        place.open(record, fresh=checkpoint is None)
    return complete(session, record, place, title=title, quiet=quiet)


def _session(
    job: Job, place: RunDirectory | None, checkpoint: Checkpoint | None, processes: Processes, *, quiet: bool
) -> Session:
    """The run at its beginning, or where ``checkpoint`` left it; first what it is shown is drawn and encoded."""
    config, data = job.config, job.data
    if job.shown is not None:
        data = drawn(job.shown, job.model, data, None if place is None else place.generated, processes, quiet=quiet)
    used = job.retain if job.forget is None else torch.cat([job.retain, job.forget])
    kept = None if place is None else place.path / LATENTS
    pairs = Pairs(
        data,
        job.retain,
        job.forget,
        batch_size=config.train_batch_size * config.gradient_accumulation_steps,
        forget_batch_size=(config.forget_batch_size or config.train_batch_size) * config.gradient_accumulation_steps,
        seed=config.seed,
        device=processes.device,
        rank=processes.rank,
        world=processes.world,
        encoded=latents_of(job.model, data, used, kept, processes, quiet=quiet),
    )
    initial = job.initial() if job.initial is not None else None
    return start(
        job.model,
        job.method,
        pairs,
        config,
        processes=processes,
        dropout=job.dropout,
        checkpoint=checkpoint,
        initial=initial,
    )


@contextmanager
def _nothing_left_if_refused(place: RunDirectory | None) -> Iterator[None]:
    """Take away what was cached for a run that cannot begin."""
    try:
        yield
    except BadInput:
        if place is not None and not place.record.exists():
            shutil.rmtree(place.path / CACHE, ignore_errors=True)
            if place.path.is_dir() and not any(place.path.iterdir()):
                place.path.rmdir()
        raise
