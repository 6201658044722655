"""erasediff: make a trained diffusion model forget, and show that it did.

import erasediff
run = erasediff.erase("base", target=erasediff.Class(7), data="digits")
print(erasediff.audit(run, base="base").verdict)
"""

from __future__ import annotations

import importlib
from typing import Any

# Names load when they are first used: importing the package costs nothing.
_PUBLIC = {
    "train": "erasediff.api.train",
    "erase": "erasediff.api.erase",
    "audit": "erasediff.api.audit",
    "compare": "erasediff.api.compare",
    "Run": "erasediff.api.run",
    "Class": "erasediff.data.targets",
    "Samples": "erasediff.data.targets",
    "Concept": "erasediff.data.targets",
    "Generation": "erasediff.data.generated",
    "EraseDiff": "erasediff.methods.erasediff",
    "TrainingConfig": "erasediff.training.config",
    "Architecture": "erasediff.families.architecture",
    "EraseDiffError": "erasediff.errors",
    "BadInput": "erasediff.errors",
    "RequirementFailed": "erasediff.errors",
    "StoppedShort": "erasediff.errors",
    "Interrupted": "erasediff.errors",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("erasediff")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'erasediff' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
