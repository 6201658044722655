"""One piece of the work: a timer that interrupts this very process, as Ctrl-C would, so that it stops cleanly."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from erasediff.errors import BadInput


@dataclass
class Piece:
    """``over``: the time is up. Work that cannot be cut looks at it before it begins."""

    over: bool = False

    def check(self) -> None:
        """Raise KeyboardInterrupt where the time is up: a run that was about to end may have swallowed the signal."""
        if self.over:
            raise KeyboardInterrupt


@contextmanager
def piece(minutes: float) -> Iterator[Piece]:
    """Within the block SIGINT reaches this process once, after so many minutes; 0 means never.

    A training run notes it, saves its state and raises Interrupted; anything else meets KeyboardInterrupt. The
    handlers of before are put back at the end. Raises BadInput for a negative number of minutes.
    """
    if not 0 <= minutes < float("inf"):
        raise BadInput(f"--minutes must be finite and not negative, got {minutes}; 0 for no limit")
    state = Piece()

    def ring(*_: object) -> None:
        state.over = True
        signal.raise_signal(signal.SIGINT)

    # A shell that starts a job in the background tells it to ignore SIGINT; here it must be heard all the same.
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield state
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGINT, interrupt)
