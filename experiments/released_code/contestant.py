"""The released code as a contestant of benchmarks/time_to_target.py, which looks at it between outer steps."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from erasediff.api.inputs import load_model
from erasediff.data.images import ImageData
from erasediff.data.targets import Split
from erasediff.families.base import Model


def _loop() -> ModuleType:
    """loop.py of this folder, wherever this file was loaded from."""
    name = "released_code_loop"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("loop.py"))
        if spec is None or spec.loader is None:
            raise ImportError(f"{Path(__file__).with_name('loop.py')} cannot be loaded")
        sys.modules[name] = importlib.util.module_from_spec(spec)  # its dataclasses look themselves up here
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@dataclass
class Released:
    """``step`` counts outer steps; ``seconds`` the processor time of both loops."""

    label: str
    base: Path
    data: ImageData
    split: Split
    settings: dict[str, Any]
    seed: int
    seconds: float = 0.0
    step: int = 0
    run: Any = field(default=None, repr=False)
    model: Model | None = field(default=None, repr=False)

    def prepare(self, limit: float) -> None:  # noqa: ARG002
        """Nothing but loading: the loop has no stage before its first step."""
        loop = _loop()
        settings = {k: v for k, v in self.settings.items() if k != "method"}
        self.model, _, _ = load_model(self.base)
        self.run = loop.released(self.model, self.data, self.split, loop.Settings(seed=self.seed, **settings))

    def advance(self, steps: int) -> None:
        """Run both loops until ``steps`` outer steps are done."""
        began = time.process_time()
        while self.run.outer < steps:
            next(self.run)
        self.seconds += time.process_time() - began
        self.step = self.run.outer

    @contextmanager
    def saved(self) -> Iterator[Model]:
        """The model with the averaged weights."""
        if self.model is None:
            raise RuntimeError(f"{self.label} was not prepared")
        with self.run.averaged():
            yield self.model

    @property
    def last_step(self) -> int:
        return int(self.run.planned[1])

    def close(self) -> None:
        self.run = self.model = None
