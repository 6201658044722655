"""Driving the loop to its end: records, checkpoints, stops, interrupts."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch

from erasediff.training import checkpoint
from erasediff.training.callbacks import Callback
from erasediff.training.loop import Session, Step, snapshot, train
from erasediff.training.stopping import COMPLETED, Stop

FLUSH = 10  # steps between two waits for the device: records, stops and interrupts are handled then
INTERRUPTED = Stop("interrupted", "the run was interrupted", short=True)


@dataclass
class Outcome:
    """How a run ended and what it recorded, a dictionary a step."""

    stop: Stop
    steps: int
    history: list[dict[str, float]] = field(default_factory=list)
    checkpoint: Path | None = None


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Within the block SIGINT and SIGTERM are noted in the list instead of raised; a second SIGINT raises."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            signal.default_int_handler(number, frame)
        noted.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever owns it handles signals
        before = {}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fit(session: Session, callbacks: Sequence[Callback] = (), checkpoints: Path | None = None) -> Outcome:
    """Run ``session`` to its end. Checkpoints go below ``checkpoints`` (``None``: none are written).

    A run that diverges writes no further checkpoint, so the newest one on disk is the last good one.
    """
    outcome = Outcome(COMPLETED, session.step)
    waiting: list[Step] = []
    with interrupts() as noted:
        for step in train(session):
            waiting.append(step)
            last = step.number == session.config.max_train_steps
            due = bool(session.config.checkpointing_steps) and step.number % session.config.checkpointing_steps == 0
            # Processes meet at the same steps: none may turn aside because it alone saw a signal.
            alone = bool(noted) and session.context.processes.world == 1
            if not (last or due or alone or step.number % FLUSH == 0):
                continue
            stop = _flush(session, waiting, outcome, callbacks)
            if stop is None and session.context.processes.agreed(bool(noted)):
                stop = INTERRUPTED
            if stop is not None:
                outcome.stop = stop
            if checkpoints is not None and (due or stop is not None) and not _diverged(stop):
                outcome.checkpoint = _write(session, checkpoints)
            if stop is not None:
                break
    outcome.steps = session.step
    for callback in callbacks:
        callback.end()
    return outcome


def _diverged(stop: Stop | None) -> bool:
    return stop is not None and stop.reason == "diverged"


def _write(session: Session, directory: Path) -> Path:
    path = directory / f"{checkpoint.PREFIX}{session.step}"
    if session.context.processes.is_main:
        checkpoint.save(directory, snapshot(session), limit=session.config.checkpoints_total_limit)
    session.context.processes.wait()
    return path


def _flush(session: Session, waiting: list[Step], outcome: Outcome, callbacks: Sequence[Callback]) -> Stop | None:
    """Bring the waiting records to the host in one transfer, hand them on, and ask the stopping rules.

    A rule ends the run at a multiple of FLUSH only (or after the last step), so that where it ends depends neither on
    checkpoints nor on interrupts.
    """
    names = [name for name, value in waiting[0].log.items() if isinstance(value, torch.Tensor)]
    columns = torch.stack([torch.stack([s.log[n].double().reshape(()) for n in names]) for s in waiting])
    stop, records = None, []
    for step, row in zip(waiting, columns.tolist(), strict=True):
        plain = {k: v for k, v in step.log.items() if not isinstance(v, torch.Tensor)}
        record = {"step": step.number, **dict(zip(names, row, strict=True)), **plain}
        found = session.stopping.see(record)
        if _diverged(found):
            stop = found
            break
        records.append({k: v for k, v in record.items() if math.isfinite(v)})
        if step.number % FLUSH == 0 or step.number == session.config.max_train_steps:
            stop = found
    waiting.clear()
    outcome.history += records
    for callback in callbacks:
        callback.steps(records)
    return stop
