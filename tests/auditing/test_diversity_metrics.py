"""Diversity: the effective number of different images of a class, and how far apart they lie."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from erasediff.auditing.metrics.diversity import diversity_measurements, pair_distance, vendi_score
from erasediff.errors import BadInput


def rows(count, width, seed):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def measured(features, labels=None, **changes):
    return diversity_measurements(features, labels, **{"subject": "erased", "seed": 0, **changes})


def test_identical_rows_count_as_one_and_orthogonal_rows_as_themselves():
    assert vendi_score(np.tile([[0.3, -2.0, 1.0]], (9, 1))) == pytest.approx(1)
    assert vendi_score(np.diag([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(5)
    assert vendi_score(np.repeat(np.eye(3), 4, axis=0)) == pytest.approx(3)


def test_rows_of_zeros_are_like_each_other_and_like_nothing_else():
    assert vendi_score(np.zeros((5, 3))) == pytest.approx(1)
    assert vendi_score(np.array([[1.0, 0], [1, 0], [0, 0], [0, 0]])) == pytest.approx(2)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_the_slow_obvious_way_agrees(shape):
    x = rows(*shape, 0).double().numpy()
    n = len(x)
    kernel = [[float(a @ b) / np.sqrt(float(a @ a) * float(b @ b)) for b in x] for a in x]
    values = [v for v in np.linalg.eigvalsh(np.array(kernel) / n) if v > 1e-12]
    assert vendi_score(x) == pytest.approx(np.exp(-sum(v * np.log(v) for v in values)))
    distances = [np.sqrt(((x[i] - x[j]) ** 2).sum()) for i in range(n) for j in range(i)]
    assert pair_distance(x) == pytest.approx(np.mean(distances))
    assert pair_distance(x) == pytest.approx(pdist(x).mean())


def test_order_scale_and_rotation_do_not_matter_to_the_vendi_score():
    x = rows(20, 6, 1).double().numpy()
    turned, _ = np.linalg.qr(rows(6, 6, 2).double().numpy())
    assert vendi_score(3 * x[::-1] @ turned) == pytest.approx(vendi_score(x))


def test_each_class_is_measured_by_itself_at_equal_counts():
    # Two classes far apart, each one single picture: no diversity, though together there are two pictures.
    features = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 5.0]] * 4)
    labels = torch.tensor([0] * 6 + [3] * 4)
    vendi, distance = measured(features, labels)
    assert (vendi.value, distance.value) == (pytest.approx(1), 0.0)
    assert (vendi.n, vendi.detail["rows_per_class"], vendi.detail["per_class"].keys()) == (8, 4, {"0", "3"})
    together, apart = measured(features)
    assert together.value > 1.5
    assert apart.value > 2
    assert "per_class" not in together.detail


def test_a_mean_over_classes_with_an_interval_around_it():
    narrow, wide = rows(30, 8, 3) * 0.1 + 1, rows(30, 8, 4)
    vendi, distance = measured(torch.cat([narrow, wide]), torch.arange(2).repeat_interleave(30))
    for found in (vendi, distance):
        assert found.value == pytest.approx(np.mean(list(found.detail["per_class"].values())))
        assert found.detail["per_class"]["0"] < found.detail["per_class"]["1"]
        assert found.low < found.value < found.high
        assert (found.group, found.higher_is_better) == ("retain", True)
    assert (vendi.name, distance.name) == ("vendi_score", "pair_distance")
    assert measured(torch.cat([narrow, wide]), torch.arange(2).repeat_interleave(30)) == [vendi, distance]


def test_a_large_class_is_cut_to_five_hundred_rows_and_collapse_shows():
    spread = rows(700, 4, 5)
    vendi, distance = measured(spread)
    assert vendi.n == distance.n == 500
    collapsed, nearer = measured(spread[:20].repeat(30, 1) * 0.5)
    assert collapsed.value <= vendi.value + 0.1
    assert nearer.value < distance.value


@pytest.mark.parametrize(
    ("features", "labels", "match"),
    [
        (torch.zeros(4), None, "finite rows"),
        (torch.full((4, 2), float("nan")), None, "did the model draw NaN"),
        (torch.zeros(4, 2), torch.zeros(3), "one label each"),
        (torch.zeros(3, 2), torch.tensor([0, 0, 1]), "at least 2 rows of each class"),
        (torch.zeros(0, 2), None, "at least 2 rows"),
    ],
)
def test_malformed_rows_are_refused(features, labels, match):
    with pytest.raises(BadInput, match=match):
        measured(features, labels)


def test_two_rows_of_a_class_have_a_value_and_no_interval():
    for found in measured(rows(4, 3, 0), torch.tensor([0, 0, 1, 1])):
        assert found.value > 0 and found.low is found.high is None
    assert all(m.low < m.value < m.high for m in measured(rows(6, 3, 0), torch.arange(2).repeat(3)))
