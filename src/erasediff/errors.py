"""What can go wrong, and the exit code each kind of it carries.

A message says what was wrong, what was given, what is allowed and what to do, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EraseDiffError(Exception):
    """Base of every error that erasediff raises on purpose. Exit code 1 unless a subclass says otherwise."""

    exit_code = 1


class BadInput(EraseDiffError):
    """The user asked for something that cannot be done as asked. Exit code 2; nothing was written."""

    exit_code = 2


class RequirementFailed(EraseDiffError):
    """An audit ran, and a ``--require`` did not hold. Exit code 3."""

    exit_code = 3


class StoppedShort(EraseDiffError):
    """A run stopped before its goal: it diverged or spent its retain budget. Exit code 4; the last good state stays."""

    exit_code = 4


class Interrupted(EraseDiffError):
    """A run was interrupted and its state saved. Exit code 130; the message is the command that resumes it."""

    exit_code = 130


def listing(names: Iterable[object]) -> str:
    """The allowed values as a sentence fragment, so that no list in a message is typed by hand."""
    return ", ".join(str(n) for n in names) or "none"


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`` (did you mean X?)`` for the closest of ``allowed``, or an empty string when nothing is close."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def check_one_of(what: str, given: str, allowed: Iterable[str]) -> None:
    """Raise BadInput unless ``given`` is among ``allowed``, which are named in their own order."""
    names = list(allowed)
    if given not in names:
        raise BadInput(f"{what} {given!r} is unknown{nearest(given, names)}; allowed: {listing(names)}")


def check_shares(owner: object, *names: str) -> None:
    """Raise BadInput unless the attributes ``names`` of ``owner`` lie between 0 and 1, or are ``None``."""
    for name in names:
        if (given := getattr(owner, name)) is not None and not 0 <= given <= 1:
            raise BadInput(f"{name} must lie in [0, 1], got {given}")


def check_finite(owner: object, *names: str) -> None:
    """Raise BadInput unless the attributes ``names`` of ``owner`` are finite and not negative, or ``None``."""
    for name in names:
        if (given := getattr(owner, name)) is not None and not 0 <= given < float("inf"):
            raise BadInput(f"{name} must be finite and not negative, got {given}")


def unknown(kind: str, name: str, allowed: Iterable[str]) -> BadInput:
    """The error for a name that is not in a table: the name, its nearest neighbour and all that is allowed."""
    names = sorted(allowed)
    return BadInput(f"unknown {kind} {name!r}{nearest(name, names)}; allowed: {listing(names)}")
