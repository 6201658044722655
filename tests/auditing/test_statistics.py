"""Intervals against slow oracles and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from erasediff.auditing.statistics import bootstrap_mean, resample_interval, wilson
from erasediff.errors import BadInput

Z = 1.959963984540054  # 97.5 % point of the standard normal


def inverted_score_test(successes: int, n: int) -> tuple[float, float]:
    """The shares p that the score test |p_hat - p| <= z sqrt(p (1 - p) / n) does not reject, by bisection."""
    share = successes / n

    def kept(p: float) -> bool:
        return abs(share - p) <= Z * math.sqrt(p * (1 - p) / n) + 1e-15

    def edge(inside: float, outside: float) -> float:
        if kept(outside):
            return outside
        for _ in range(100):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if kept(middle) else (inside, middle)
        return inside

    return edge(share, 0.0), edge(share, 1.0)


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (1, 1), (3, 10), (50, 100), (499, 500), (20, 20)])
def test_wilson_is_the_inversion_of_the_score_test(successes: int, n: int) -> None:
    assert wilson(successes, n) == pytest.approx(inverted_score_test(successes, n), abs=1e-9)


def test_wilson_mirrors_narrows_and_keeps_a_width_at_zero() -> None:
    low, high = wilson(3, 10)
    assert wilson(7, 10) == pytest.approx((1 - high, 1 - low))
    assert wilson(30, 100)[1] - wilson(30, 100)[0] < high - low
    assert wilson(3, 10, confidence=0.5)[1] < high
    assert wilson(0, 20)[0] == 0 and wilson(0, 20)[1] > 0.1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(BadInput, match="successes"):
        wilson(successes, n)


def test_an_interval_refuses_a_confidence_outside_0_to_1() -> None:
    with pytest.raises(BadInput, match="confidence"):
        wilson(1, 2, confidence=95)
    with pytest.raises(BadInput, match="confidence"):
        bootstrap_mean([1.0, 2.0], seed=0, confidence=1.0)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    half = Z * values.std(ddof=1) / math.sqrt(len(values))
    assert bootstrap_mean(values, seed=1) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.15 * half
    )


def test_bootstrap_of_a_mean_is_a_function_of_its_seed_and_leaves_numpy_alone() -> None:
    values = np.random.default_rng(0).random(50)
    before = np.random.get_state()[1].copy()
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("values", [[0.25], [0.25] * 40])
def test_constant_values_give_equal_bounds(values: list[float]) -> None:
    assert bootstrap_mean(values, seed=0) == (0.25, 0.25)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_a_mean_of_nothing_is_refused(values: list[float]) -> None:
    with pytest.raises(BadInput, match="finite"):
        bootstrap_mean(values, seed=0)


def squared_norm_of_mean(rows: np.ndarray) -> float:
    """Biased upward by resampling, as Frechet distances are."""
    return float((rows.mean(axis=0) ** 2).sum())


def test_centred_interval_holds_the_value_where_plain_percentiles_miss_it() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 50))
    rng = np.random.default_rng(1)
    plain = [squared_norm_of_mean(rows[rng.integers(30, size=30)]) for _ in range(400)]
    value = squared_norm_of_mean(rows)
    assert np.quantile(plain, 0.025) > value
    low, high = resample_interval(squared_norm_of_mean, [rows], seed=2, resamples=400)
    assert low < value < high


def test_centred_interval_of_a_mean_agrees_with_the_bootstrap_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=400)
    ours = resample_interval(lambda rows: float(rows.mean()), [values], seed=5, resamples=2000)
    assert ours == pytest.approx(bootstrap_mean(values, seed=6), abs=0.015)


def test_resampling_draws_each_array_by_itself_and_can_be_given_its_centre() -> None:
    x, y = np.arange(10.0), np.arange(4.0)
    low, high = resample_interval(lambda a, b: float(a.mean() - b.mean()), [x, y], seed=0)
    assert low < 3.0 < high
    moved = resample_interval(lambda a, b: float(a.mean() - b.mean()), [x, y], seed=0, value=13.0)
    assert moved == pytest.approx((low + 10, high + 10))
    assert resample_interval(lambda a: 1.5, [x], seed=0) == (1.5, 1.5)
    with pytest.raises(BadInput, match="rows"):
        resample_interval(lambda a: 1.5, [np.empty((0, 2))], seed=0)
