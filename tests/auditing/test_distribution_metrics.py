"""Distances and neighbourhoods: properties, analytic values and double-loop oracles."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from erasediff.auditing.metrics.balls import neighbourhoods, shares_left_out
from erasediff.auditing.metrics.distribution import (
    distribution_measurements,
    frechet_distance,
    kernel_distance,
)
from erasediff.auditing.statistics import jackknife_groups, wilson
from erasediff.errors import BadInput, EraseDiffError


def gaussian(seed: int, n: int = 200, width: int = 8, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, scale, size=(n, width))


def test_frechet_distance_of_a_set_with_itself_is_zero() -> None:
    x = gaussian(0)
    assert frechet_distance(x, x[::-1].copy()) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_two_gaussians_is_the_analytic_one() -> None:
    x, y = gaussian(0, n=20_000), gaussian(1, n=20_000, mean=0.5, scale=2.0)
    assert frechet_distance(x, y) == pytest.approx(8 * 0.5**2 + 8 * (2.0 - 1.0) ** 2, rel=0.02)


def test_frechet_distance_ignores_rotation_and_a_common_shift() -> None:
    x, y = gaussian(0), gaussian(1, mean=0.3)
    rotation, _ = np.linalg.qr(gaussian(2, n=8))
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert frechet_distance(x + 1e6, y + 1e6) == pytest.approx(frechet_distance(x, y), rel=1e-6)


def test_frechet_distance_of_few_rows_in_a_wide_space_is_that_of_their_span() -> None:
    x, y = gaussian(0, n=6, width=4), gaussian(1, n=7, width=4, mean=1.0)
    into_wide, _ = np.linalg.qr(gaussian(2, n=300, width=4))
    assert frechet_distance(x @ into_wide.T, y @ into_wide.T) == pytest.approx(frechet_distance(x, y), rel=1e-5)


def slow_mmd(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n = len(x)
    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j)
    return within / (n * (n - 1)) - 2 * sum(kernel(a, b) for a in x for b in y) / n**2


def test_kernel_distance_is_the_double_loop_over_one_whole_subset() -> None:
    x, y = gaussian(0, n=20), gaussian(1, n=20, mean=0.5)
    assert kernel_distance(x, y, seed=0, subsets=1, subset_size=20) == pytest.approx(slow_mmd(x, y), rel=1e-9)


def test_kernel_distance_is_seeded_and_leaves_the_global_generator_alone() -> None:
    x, y = gaussian(0), gaussian(1, mean=0.3)
    before = torch.get_rng_state()
    assert kernel_distance(x, y, seed=0) == kernel_distance(x, y, seed=0) != kernel_distance(x, y, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert abs(kernel_distance(x, gaussian(2), seed=0)) < 0.05 < kernel_distance(x, y, seed=0)


def slow_neighbourhoods(real: np.ndarray, generated: np.ndarray, k: int) -> dict[str, float]:
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(((a - b) ** 2).sum()))

    def radius(rows: np.ndarray, i: int) -> float:
        return sorted(distance(rows[i], rows[j]) for j in range(len(rows)) if j != i)[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    generated_radii = [radius(generated, j) for j in range(len(generated))]
    held = np.array([[distance(y, x) <= r for x, r in zip(real, real_radii, strict=True)] for y in generated])
    back = np.array([[distance(x, y) <= r for y, r in zip(generated, generated_radii, strict=True)] for x in real])
    return {
        "precision": held.any(axis=1).mean(),
        "recall": back.any(axis=1).mean(),
        "density": held.sum() / (k * len(generated)),
        "coverage": held.any(axis=0).mean(),
    }


@pytest.mark.parametrize("width", [2, 20])  # below and above where scikit-learn turns from trees to brute force
def test_neighbourhoods_are_those_of_the_double_loop(width: int) -> None:
    real, generated = gaussian(0, n=40, width=width), gaussian(1, n=31, width=width, mean=0.4, scale=0.8)
    found = neighbourhoods(real, generated, k=3)
    ours = {
        "precision": found.precise.mean(),
        "recall": found.recalled.mean(),
        "density": found.density.mean(),
        "coverage": found.covered.mean(),
    }
    assert ours == pytest.approx(slow_neighbourhoods(real, generated, k=3))
    assert 0 < ours["coverage"] < 1 and 0 < ours["recall"] < 1


def test_shares_without_a_group_are_those_of_the_other_rows() -> None:
    real, generated = gaussian(0, n=40, width=3), gaussian(1, n=33, width=3, mean=0.4, scale=0.8)
    groups = jackknife_groups(33, seed=0)
    found = shares_left_out(real, generated, groups, neighbourhoods(real, generated, k=3).real_radius, k=3)
    assert len(found.recall) == len(found.coverage) == 20
    for g, (recall, coverage) in enumerate(zip(*found, strict=True)):
        slow = slow_neighbourhoods(real, generated[groups != g], k=3)
        assert (recall, coverage) == pytest.approx((slow["recall"], slow["coverage"]))


def test_intervals_of_recall_and_coverage_hold_what_other_draws_give() -> None:
    """Real points share the generated ones: taken for independent, their shares' intervals were half as wide as due."""
    real = gaussian(0, n=800, width=6)
    draws = [gaussian(seed, n=100, width=6, scale=0.9) for seed in range(1, 41)]
    found = [distribution_measurements(real, y, seed=0, features="made", resamples=2) for y in draws]
    for name in ("recall", "coverage"):
        measured = [m for one in found for m in one if m.name == name]
        mean = np.mean([m.value for m in measured])
        held = sum(m.low <= mean <= m.high for m in measured)
        alone = [wilson(round(m.value * 800), 800) for m in measured]
        assert held >= 37 and held >= sum(low <= mean <= high for low, high in alone)
        if name == "recall":
            assert sum(low <= mean <= high for low, high in alone) < 33


def shares(real: np.ndarray, generated: np.ndarray) -> tuple[float, float, float, float]:
    found = neighbourhoods(real, generated)
    return found.precise.mean(), found.recalled.mean(), found.density.mean(), found.covered.mean()


def test_the_same_distribution_scores_near_one() -> None:
    precision, recall, density, coverage = shares(gaussian(0, n=500, width=2), gaussian(1, n=500, width=2))
    assert min(precision, recall, coverage) > 0.93
    assert density == pytest.approx(1, abs=0.12)


def test_far_off_samples_have_no_precision_and_collapsed_ones_no_recall() -> None:
    real = gaussian(0, n=300)
    assert shares(real, gaussian(1, n=300, mean=20.0)) == (0, 0, 0, 0)
    precision, recall, _, coverage = shares(real, gaussian(1, n=300, scale=0.01))
    assert precision == 1 and recall == 0 and coverage < 0.5


def test_all_six_are_measured_with_intervals_and_named_features() -> None:
    x, y = torch.from_numpy(gaussian(0, n=80)).float(), torch.from_numpy(gaussian(1, n=60)).float()
    found = distribution_measurements(
        x, y, seed=0, features="pixels", resamples=20, subject="base", detail={"by": "us"}
    )
    assert [m.name for m in found] == [
        "frechet_distance",
        "kernel_distance",
        "precision",
        "recall",
        "density",
        "coverage",
    ]
    assert [m.n for m in found] == [60, 60, 60, 80, 60, 80]
    assert [m.higher_is_better for m in found] == [False, False, True, True, True, True]
    for m in found:
        assert m.low <= m.value <= m.high and m.group == "retain" and m.subject == "base"
        assert m.detail == {"by": "us", "features": "pixels", "n_real": 80, "n_generated": 60, "k": 5, "seed": 0}
    assert found == distribution_measurements(
        x, y, seed=0, features="pixels", resamples=20, subject="base", detail={"by": "us"}
    )


def test_a_wide_space_has_a_frechet_distance_without_an_interval() -> None:
    frechet = distribution_measurements(
        gaussian(0, n=140, width=300), gaussian(1, n=140, width=300), seed=0, features="pixels", resamples=2
    )[0]
    assert frechet.value > 0 and frechet.low is None and frechet.high is None


@pytest.mark.parametrize(
    ("real", "generated", "says"),
    [
        (np.ones((9, 2)), np.ones((9, 3)), "one width"),
        (np.ones((9, 2)), np.ones((5, 2)), "at least 6"),
        (np.ones((9, 2)), np.full((9, 2), np.nan), "finite"),
    ],
)
def test_malformed_features_are_refused(real: np.ndarray, generated: np.ndarray, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        distribution_measurements(real, generated, seed=0, features="pixels")


def test_a_torchmetrics_that_cannot_be_imported_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(EraseDiffError, match="torchmetrics cannot be imported"):
        frechet_distance(gaussian(0), gaussian(1))


def test_torch_fidelity_without_torchvision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "torch_fidelity" or None)
    with pytest.raises(EraseDiffError, match="uninstall torch-fidelity"):
        frechet_distance(gaussian(0), gaussian(1))
