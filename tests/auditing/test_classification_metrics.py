"""Forget and retain shares on probabilities made by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from erasediff.auditing.metrics.classification import (
    forget_measurements,
    retain_measurements,
    unconditional_measurements,
)
from erasediff.auditing.result import Measurement
from erasediff.auditing.statistics import wilson
from erasediff.errors import BadInput


def named(measurements: list[Measurement]) -> dict[str, Measurement]:
    json.dumps([m.detail for m in measurements], allow_nan=False)  # all of it goes into audit.json
    return {m.name: m for m in measurements}


def certain(classes: list[int], num_classes: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), num_classes).float()


def test_forget_rate_is_the_share_still_called_the_target() -> None:
    found = named(forget_measurements(certain([2, 2, 0, 1, 3, 3, 3, 0]), [2], seed=0, detail={"judge": "by hand"}))
    rate = found["forget_rate"]
    assert (rate.value, rate.low, rate.high) == (0.25, *wilson(2, 8))
    assert (rate.n, rate.group, rate.subject, rate.higher_is_better) == (8, "forget", "erased", False)
    assert rate.detail == {"judge": "by hand", "target_classes": [2]}
    assert found["forget_probability"].value == pytest.approx(0.25)
    assert found["forget_entropy"].value == 0


def test_forget_probability_is_the_mean_mass_on_the_target() -> None:
    judged = torch.tensor([[0.4, 0.6, 0.0], [0.2, 0.3, 0.5]])
    found = named(forget_measurements(judged, [0], seed=0))
    assert found["forget_rate"].value == 0
    assert found["forget_probability"].value == pytest.approx(0.3)
    assert found["forget_probability"].low == pytest.approx(0.2) and found["forget_probability"].high == pytest.approx(
        0.4
    )


def test_several_target_classes_count_together() -> None:
    judged = torch.tensor([[0.4, 0.3, 0.3], [0.1, 0.2, 0.7]])
    found = named(forget_measurements(judged, [1, 2], seed=0, subject="base"))
    assert found["forget_rate"].value == 0.5  # by the most likely single class, not by the larger side
    assert found["forget_probability"].value == pytest.approx((0.6 + 0.9) / 2)
    assert found["forget_rate"].subject == "base"


def test_entropy_of_noise_is_ln_k() -> None:
    found = named(forget_measurements(torch.full((6, 10), 0.1), [7], seed=0))["forget_entropy"]
    assert found.value == pytest.approx(math.log(10), abs=1e-6) == found.detail["maximum"]
    assert not found.higher_is_better


def test_unconditional_share_and_diversity() -> None:
    even = named(unconditional_measurements(certain([0, 1, 2, 3] * 25), [1], seed=0))
    assert even["forget_rate_unconditional"].value == 0.25
    diversity = even["class_entropy_unconditional"]
    assert diversity.value == pytest.approx(math.log(4)) and diversity.higher_is_better
    assert diversity.low < diversity.value == diversity.high
    assert diversity.detail["histogram"] == [25, 25, 25, 25]
    collapsed = named(unconditional_measurements(certain([3] * 20), [1], seed=0))
    assert collapsed["forget_rate_unconditional"].value == 0
    assert collapsed["class_entropy_unconditional"].value == 0


def test_worst_class_is_the_least_of_the_table() -> None:
    labels = [0, 0, 0, 0, 1, 1, 1, 1, 3, 3]
    called = [0, 0, 0, 0, 1, 2, 2, 1, 3, 0]
    found = named(retain_measurements(certain(called), torch.tensor(labels), class_names=["a", "b", "c", "d"]))
    assert found["retain_accuracy"].value == pytest.approx(0.7)
    assert (found["retain_accuracy"].low, found["retain_accuracy"].high) == wilson(7, 10)
    worst = found["retain_accuracy_worst"]
    assert worst.detail["per_class"] == {"a": 1.0, "b": 0.5, "d": 0.5}
    assert worst.value == min(worst.detail["per_class"].values()) and worst.detail["class"] == "b"
    assert (worst.low, worst.high, worst.n) == (*wilson(2, 4), 4)
    assert worst.higher_is_better and worst.group == "retain"


@pytest.mark.parametrize(
    "judged", [torch.full((2, 3), float("nan")), torch.ones(2, 3), torch.empty(0, 3), torch.ones(3)]
)
def test_probabilities_that_are_none_are_refused(judged: torch.Tensor) -> None:
    with pytest.raises(BadInput, match="probabilities"):
        forget_measurements(judged, [0], seed=0)


@pytest.mark.parametrize("targets", [[], [4], [-1]])
def test_targets_must_be_classes_of_the_judge(targets: list[int]) -> None:
    with pytest.raises(BadInput, match="target classes"):
        forget_measurements(certain([0]), targets, seed=0)


@pytest.mark.parametrize("labels", [[0], [0, 9]])
def test_labels_must_fit_the_samples(labels: list[int]) -> None:
    with pytest.raises(BadInput, match="label"):
        retain_measurements(certain([0, 1]), labels)
