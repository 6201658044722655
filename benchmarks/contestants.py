"""What runs in a race: one object a method, advanced step by step, asked in between for the weights it would save."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from erasediff.api.erase import method_named
from erasediff.api.inputs import load_model
from erasediff.api.weights import steps_of
from erasediff.data.images import ImageData
from erasediff.data.pairs import Pairs
from erasediff.data.targets import Class, Split
from erasediff.families.base import Model
from erasediff.methods.base import decided
from erasediff.training.config import ERASE_DEFAULTS
from erasediff.training.loop import Session, start, train

LONGEST = 1e6  # seconds; the timer takes no infinity


class OutOfTime(Exception):
    """A stage that cannot be divided (a Fisher matrix, a replay set) ran into the limit."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block once this process has used so many seconds of processor time in it."""

    def ring(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, min(seconds, LONGEST))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@dataclass
class Contestant:
    """A method of the library on a copy of the base model. ``seconds``: processor time of its own work so far."""

    label: str
    base: Path
    data: ImageData
    split: Split
    settings: dict[str, Any]
    seed: int
    seconds: float = 0.0
    step: int = 0
    session: Session | None = field(default=None, repr=False)

    def prepare(self, limit: float) -> None:
        """Masks, Fisher matrices, replay sets. Raises OutOfTime at the limit."""
        model, _, _ = load_model(self.base)
        model.conditions = replace(model.conditions, excluded=self.split.classes)
        settings = dict(self.settings)
        training = settings.pop("training", {})
        method = decided(method_named(settings.pop("method", self.label), settings), model.conditions)
        given = {"seed": self.seed, "checkpointing_steps": 0, **training}
        config = replace(ERASE_DEFAULTS, **steps_of(model.family, given, map(Class, self.split.classes), method))
        pairs = Pairs(
            self.data,
            self.split.retain,
            self.split.forget,
            batch_size=config.train_batch_size,
            forget_batch_size=config.forget_batch_size,
            seed=self.seed,
        )
        began = time.process_time()
        try:
            with at_most(limit):
                self.session = start(model, method, pairs, config)
        finally:
            self.seconds += time.process_time() - began

    def advance(self, steps: int) -> None:
        """Take steps until ``steps`` are done."""
        session = self._started()
        began = time.process_time()
        deque(islice(train(session), steps - session.step), maxlen=0)
        self.seconds += time.process_time() - began
        self.step = session.step

    @contextmanager
    def saved(self) -> Iterator[Model]:
        """The model with the weights that a run which ended now would save."""
        session = self._started()
        held = session.average.in_place() if session.average is not None else nullcontext()
        with held:
            session.model.denoiser.eval()
            yield session.model

    def _started(self) -> Session:
        if self.session is None:
            raise RuntimeError(f"{self.label} was not prepared")
        return self.session

    @property
    def last_step(self) -> int:
        """Where its own settings end it."""
        return self._started().config.max_train_steps

    def close(self) -> None:
        self.session = None
