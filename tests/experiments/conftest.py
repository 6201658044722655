"""The scripts of experiments/ and benchmarks/, which are no packages: several folders call a file by one name."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = tuple(str(ROOT / folder) for folder in ("experiments", "benchmarks"))


def forget() -> None:
    """Drop every script that was imported, so that another folder may use its name."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(SCRIPTS):
            del sys.modules[name]


@pytest.fixture
def script(monkeypatch):
    """``script("experiments/images", "table")``: a script as a module, read anew, with its own folder to import from.

    Several names give a tuple of modules that know one another. A second call forgets what the first one loaded.
    """

    def found(folder: str, *names: str):
        forget()
        monkeypatch.syspath_prepend(str(ROOT / folder))
        modules = tuple(importlib.import_module(name) for name in names)
        return modules if len(modules) > 1 else modules[0]

    yield found
    forget()
