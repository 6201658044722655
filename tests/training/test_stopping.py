"""Stops: when, why, and the same after a resume."""

import pytest

from erasediff.training.config import TrainingConfig
from erasediff.training.stopping import WARM, ConstraintMet, RetainBudget, Stopping


def run(rule, values, entry):
    for number, value in enumerate(values, 1):
        if stop := rule.see({entry: value, "step": number}):
            return number, stop
    return None, None


def test_the_constraint_is_met_relative_to_the_first_slack():
    number, stop = run(ConstraintMet(0.1), [2.0] + [0.1] * 100, "slack")
    assert stop.reason == "constraint_met"
    assert not stop.short
    assert WARM < number < 60
    assert run(ConstraintMet(0.1), [2.0] + [0.3] * 100, "slack") == (None, None)


def test_one_lucky_batch_does_not_meet_it():
    assert run(ConstraintMet(0.1), [2.0] * 20 + [0.0] + [2.0] * 20, "slack") == (None, None)


def test_the_retain_budget_stops_short():
    number, stop = run(RetainBudget(0.2), [1.0] * 20 + [1.5] * 50, "retain_denoise_loss")
    assert stop.reason == "retain_budget"
    assert stop.short
    assert 20 < number < 40
    assert run(RetainBudget(0.2), [1.0] * 20 + [1.1] * 50, "retain_denoise_loss") == (None, None)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_diverged(bad):
    stop = Stopping.of(TrainingConfig()).see({"step": 3, "forget_loss": bad})
    assert stop.reason == "diverged"
    assert "forget_loss" in stop.detail


def test_gradients_of_a_skipped_step_may_overflow_its_loss_may_not():
    rules = Stopping.of(TrainingConfig())
    assert rules.see({"step": 3, "skipped": 1.0, "forget_loss": 1.0, "grad_norm": float("inf")}) is None
    assert rules.see({"step": 3, "skipped": 1.0, "forget_loss": float("nan")}).reason == "diverged"


def test_state_survives_a_resume_exactly():
    values = [2.0, 1.7, 0.9, 0.4, 0.3, 0.25, 0.2, 0.2, 0.2, 0.2, 0.2, 0.19, 0.19, 0.19, 0.19, 0.18, 0.18]
    whole = ConstraintMet(0.13)
    expected = run(whole, values, "slack")
    first, second = ConstraintMet(0.13), ConstraintMet(0.13)
    run(first, values[:6], "slack")
    second.load(first.state())
    run(second, values[6:], "slack")
    assert second.average == whole.average or expected[0] is not None
    assert second.reference == 2.0
