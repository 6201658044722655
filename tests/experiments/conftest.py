"""The scripts of experiments/, which are no package: their folders call different files by one name."""

import importlib
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def script(monkeypatch):
    """``script("images", "table")``: a script as a module, read anew, with its own folder to import from."""

    def found(folder: str, name: str):
        place = EXPERIMENTS / folder
        monkeypatch.syspath_prepend(str(place))
        for beside in place.glob("*.py"):
            monkeypatch.delitem(sys.modules, beside.stem, raising=False)
        return importlib.import_module(name)

    return found
