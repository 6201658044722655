"""Where a result came from: versions, machine and cost, as ``run.json`` records them."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

RUN_SCHEMA = 1
WATCHED = (
    "erasediff",
    "torch",
    "diffusers",
    "accelerate",
    "peft",
    "torchjd",
    "torchmetrics",
    "scikit-learn",
    "scipy",
    "numpy",
    "safetensors",
    "huggingface_hub",
)


def versions() -> dict[str, str | None]:
    """Installed version of each package that can change a number; ``None`` where it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in WATCHED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """The machine as far as it can change bits or seconds. Bit-equality is promised for the same answer only."""
    return {"platform": platform.platform(), "machine": platform.machine(), "cpu_count": os.cpu_count()}


def command() -> list[str]:
    """The command line that started this process, for the record and for the resume hint."""
    return ["erasediff", *sys.argv[1:]]
