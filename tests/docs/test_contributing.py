"""The worked example of CONTRIBUTING.md, executed as written."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.methods import test_contract as contract

from erasediff.methods import METHODS

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text()
NAME, MODULE = "scaled_ascent", "erasediff.methods.scaled_ascent"


def block(path: str) -> str:
    (found,) = re.findall(rf"```python\n(# {re.escape(path)}\n.*?)```", TEXT, re.DOTALL)
    return str(found)


@pytest.fixture
def example(monkeypatch) -> ModuleType:
    """The module shown, importable under its name and listed by the line shown."""
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    exec(compile(block("src/erasediff/methods/scaled_ascent.py"), MODULE, "exec"), module.__dict__)  # noqa: S102
    ((name, row),) = re.findall(r'^"(\w+)": "(erasediff\.methods\.[\w.]+:\w+)",$', TEXT, re.MULTILINE)
    monkeypatch.setitem(METHODS._builtin, name, row)
    assert METHODS[NAME] is module.ScaledAscent
    return module


def test_the_test_shown_passes_and_tests(example, squares):
    shown: dict = {"__name__": "shown"}
    exec(compile(block("tests/methods/test_scaled_ascent.py"), "shown", "exec"), shown)  # noqa: S102
    for share in (0.1, 2.0):
        shown["test_the_forget_part_has_the_length_that_was_asked_for"](share, squares)
    shown["test_it_points_up_the_forget_loss"](squares)
    wrong = type("Wrong", (example.ScaledAscent,), {"direction": shown["GradDiff"].direction, "weight": 0.3})
    shown["ScaledAscent"] = wrong
    with pytest.raises(AssertionError):
        shown["test_the_forget_part_has_the_length_that_was_asked_for"](0.1, squares)


def test_the_contract_holds_for_it(example, squares, tmp_path):
    contract.test_gradients_are_finite_and_reach_every_weight(NAME, "unet2d", squares)
    contract.test_direction_leaves_the_weights_and_grad_alone(NAME, "unet2d", squares)
    contract.test_a_resumed_run_is_the_unbroken_run(NAME, "unet2d", squares)
    contract.test_what_is_saved_predicts_the_same_in_plain_diffusers(NAME, "unet2d", squares, tmp_path)
    contract.test_configuration_round_trip(NAME)
    contract.test_what_a_method_declares(NAME)
