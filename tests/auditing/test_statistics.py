"""Intervals against slow oracles and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from erasediff.auditing.statistics import (
    block_variance,
    bootstrap_mean,
    holm,
    jackknife_groups,
    jackknife_interval,
    paired_t,
    resample_interval,
    signed_rank,
    t_interval,
    tost,
    wilson,
)
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


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=20)
    left_out = [np.delete(values, i).mean() for i in range(20)]
    assert jackknife_interval(values.mean(), [left_out]) == pytest.approx(t_interval(values))


def test_a_mean_of_independent_jackknives_has_the_errors_of_both() -> None:
    one, other = np.random.default_rng(1).normal(size=(2, 20))
    alone = [jackknife_interval(0.0, [v])[1] / stats.t.ppf(0.975, 19) for v in (one, other)]
    assert jackknife_interval(0.0, [one, other])[1] == pytest.approx(math.hypot(*alone) / 2 * stats.t.ppf(0.975, 38))
    with pytest.raises(BadInput, match="none"):
        jackknife_interval(0.0, [])
    with pytest.raises(BadInput, match="at least 2"):
        jackknife_interval(0.0, [[1.0]])


def test_groups_are_even_seeded_and_leave_enough_rows() -> None:
    groups = jackknife_groups(87, seed=3)
    assert set(np.bincount(groups)) == {4, 5} and len(np.bincount(groups)) == 20
    assert (groups == jackknife_groups(87, seed=3)).all() and (groups != jackknife_groups(87, seed=4)).any()
    assert sorted(jackknife_groups(7, seed=0)) == list(range(7))
    assert jackknife_groups(1, seed=0) is None
    assert jackknife_groups(6, seed=0, least=6) is None and jackknife_groups(7, seed=0, least=6) is not None


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


@pytest.mark.parametrize("p_values", [[], [0.2], [0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.5], [0.0, 1.0, 0.3, 0.3]])
def test_holm_is_the_step_down_of_its_definition(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for alpha in (0.001, 0.01, 0.02, 0.05, 0.1, 0.3, 0.9):
        rejected, left = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
        while left and p_values[left[0]] * len(left) <= alpha:
            rejected.add(left.pop(0))
        assert {i for i, p in enumerate(adjusted) if p <= alpha} == rejected


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_is_monotone_and_between_the_raw_p_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, a in zip(p_values, adjusted, strict=True):
        assert p <= a <= min(1.0, len(p_values) * p) or a == p
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_holm_refuses_what_is_no_p_value() -> None:
    for wrong in ([1.1], [-0.1], [float("nan")]):
        with pytest.raises(BadInput, match="between 0 and 1"):
            holm(wrong)


def test_paired_t_is_scipys_and_its_interval_excludes_0_where_p_is_small() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.4, 1.5):
        one, other = rng.normal(shift, 1, 9), rng.normal(0, 1, 9)
        found, known = paired_t(one - other), stats.ttest_rel(one, other)
        interval = known.confidence_interval(0.95)
        assert found.p == pytest.approx(known.pvalue) and found.n == 9
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_paired_t_says_where_there_is_no_test() -> None:
    alone, same, none = paired_t([0.3]), paired_t([0.1 + 0.2, 0.3, 0.3]), paired_t([0.0, 0.0])
    assert alone.p is None and alone.low is None and "one pair" in alone.note
    assert same.p is None and "same difference" in same.note and same.low == pytest.approx(0.3)
    assert none.p == 1.0 and none.difference == 0
    for wrong in ([], [float("nan"), 1.0]):
        with pytest.raises(BadInput, match="finite"):
            paired_t(wrong)


def test_signed_rank_is_exact_also_with_ties_and_zeros() -> None:
    rng = np.random.default_rng(1)
    for n in (6, 9, 14):
        values = rng.normal(0.3, 1, n)
        assert signed_rank(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)
    assert signed_rank([1, 1, 1, 1, 1, 1]) == pytest.approx(2 / 2**6)
    assert signed_rank([0, 0, 1, 1, 1, 1, 1]) is None and signed_rank([1.0]) is None
    assert signed_rank([0, 1, -1, 2, -2, 3, -3]) == pytest.approx(1.0)
    assert 0 < signed_rank(rng.normal(0.5, 1, 40)) < 0.2


def test_tost_shows_equivalence_only_within_the_margin() -> None:
    rng = np.random.default_rng(2)
    close = rng.normal(0, 0.01, 20)
    assert tost(close, 0.05) < 0.001 and tost(close + 0.1, 0.05) > 0.99
    both = [
        stats.ttest_1samp(close, sign * 0.01, alternative=side).pvalue for sign, side in ((-1, "greater"), (1, "less"))
    ]
    assert tost(close, 0.01) == pytest.approx(max(both))
    assert tost([0.1], 1.0) is None and tost([0.1, 0.1], 1.0) is None
    with pytest.raises(BadInput, match="margin"):
        tost(close, 0.0)


def test_t_interval_covers_the_mean_as_often_as_it_promises() -> None:
    rng = np.random.default_rng(3)
    inside = [low <= 2 <= high for low, high in (t_interval(rng.normal(2, 1, 4)) for _ in range(1500))]
    assert 0.93 < np.mean(inside) < 0.97
    with pytest.raises(BadInput, match="at least 2"):
        t_interval([1.0])


def test_the_variance_between_blocks_is_that_of_their_means_and_a_single_block_says_nothing():
    drawn = np.random.default_rng(0)
    shared = drawn.normal(size=(4000, 5, 1))  # five blocks whose rows share a draw, as often as the law needs
    values = shared + drawn.normal(size=(4000, 5, 20))
    claimed = np.mean([block_variance(v.ravel(), 5) for v in values])
    assert claimed == pytest.approx(values.mean(axis=(1, 2)).var(), rel=0.06)
    assert block_variance(values[0].ravel(), 1) == 0.0
