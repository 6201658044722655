"""The bars and remarks of diffusers and transformers, kept out of the output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


@contextmanager
def muted(*libraries: str) -> Iterator[None]:
    """Keep these libraries (``diffusers``, ``transformers``) from drawing bars and saying less than errors.

    What they would say of missing weights has to be an error of the caller's.
    """
    voices: list[Any] = [import_module(f"{library}.utils.logging") for library in libraries]
    before = [(voice, voice.get_verbosity(), voice.is_progress_bar_enabled()) for voice in voices]
    for voice in voices:
        voice.set_verbosity_error()
        voice.disable_progress_bar()
    try:
        yield
    finally:
        for voice, level, bars in before:
            voice.set_verbosity(level)
            if bars:
                voice.enable_progress_bar()
