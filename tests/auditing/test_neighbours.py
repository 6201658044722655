"""The classes nearest to the target, and how they fare."""

import pytest
import torch

from erasediff.auditing.metrics.neighbours import distances_to_target, neighbour_measurement, neighbours
from erasediff.auditing.statistics import wilson
from erasediff.errors import BadInput

CENTRES = torch.tensor([[0.0, 0.0], [10.0, 0.0], [3.0, 0.0], [0.0, 4.0], [11.0, 0.0]])
LABELS = torch.arange(5).repeat(6)
SPREAD = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
REAL = CENTRES[LABELS] + (SPREAD - SPREAD.mean(0)).repeat_interleave(5, 0)


def test_the_nearest_come_first():
    assert neighbours(REAL, LABELS, (0,)) == (2, 3)
    assert neighbours(REAL, LABELS, (1,), count=1) == (4,)
    assert neighbours(REAL, LABELS, (0,), count=9) == (2, 3, 1, 4)
    assert list(distances_to_target(REAL, LABELS, (0,)).values()) == pytest.approx([10, 3, 4, 11], abs=1e-5)


def test_of_two_targets_the_nearer_one_counts_and_neither_is_a_neighbour():
    assert distances_to_target(REAL, LABELS, (0, 1)) == pytest.approx({2: 3, 3: 4, 4: 1}, abs=1e-5)
    assert neighbours(REAL, LABELS, (1, 0)) == (4, 2)


def test_equal_distances_go_by_number_and_the_order_of_rows_does_not_matter():
    features, labels = torch.tensor([[0.0], [-1.0], [1.0]]), torch.tensor([1, 2, 0])
    assert neighbours(features, labels, (1,)) == (0, 2)
    assert neighbours(features.flip(0), labels.flip(0), (1,)) == (0, 2)


def test_only_samples_of_the_neighbours_count():
    asked = torch.tensor([0, 0, 2, 2, 2, 3])
    called = torch.tensor([1, 1, 2, 2, 0, 3])
    found = neighbour_measurement(
        torch.eye(4)[called], asked, (2, 3), subject="erased", class_names=("a", "b", "c", "d"), distances=(1.5, 2)
    )
    assert (found.name, found.group, found.value, found.n) == ("retain_accuracy_neighbours", "retain", 0.75, 4)
    assert (found.low, found.high) == wilson(3, 4)
    assert found.detail["neighbours"] == ["c", "d"]
    assert found.detail["distances"] == [1.5, 2.0]
    assert found.detail["per_class"] == {"c": pytest.approx(2 / 3), "d": 1.0}
    assert neighbour_measurement(torch.eye(4)[called], asked, (3,)).detail["neighbours"] == ["3"]


@pytest.mark.parametrize(
    ("features", "labels", "classes", "match"),
    [
        (REAL, LABELS, (), "every target class"),
        (REAL, LABELS, (7,), "every target class"),
        (REAL, LABELS, (0, 1, 2, 3, 4), "and of another"),
        (REAL, LABELS[:4], (0,), "a label each"),
        (REAL * float("nan"), LABELS, (0,), "finite"),
    ],
)
def test_malformed_features_are_refused(features, labels, classes, match):
    with pytest.raises(BadInput, match=match):
        neighbours(features, labels, classes)


def test_other_bad_input_is_refused():
    with pytest.raises(BadInput, match="count must be at least 1"):
        neighbours(REAL, LABELS, (0,), count=0)
    given = torch.eye(4)
    with pytest.raises(BadInput, match="no sample was asked"):
        neighbour_measurement(given, torch.tensor([0, 1, 0, 1]), (2,))
    with pytest.raises(BadInput, match="one label each"):
        neighbour_measurement(given, torch.tensor([0, 1]), (0,))
    with pytest.raises(BadInput, match="one distance; got 1"):
        neighbour_measurement(given, torch.arange(4), (0, 1), distances=(1.0,))
    with pytest.raises(BadInput, match="did the model draw NaN"):
        neighbour_measurement(given * float("nan"), torch.arange(4), (0,))
