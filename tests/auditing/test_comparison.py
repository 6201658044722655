"""Differences from the retrained model: what counts as beyond, within, and neither."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from erasediff.auditing import comparison
from erasediff.auditing.comparison import EQUAL, LOWER, UNCLEAR, WORSE, compare, compared, settled
from erasediff.auditing.finding import Evidence, Finding, rows_of
from erasediff.auditing.result import Measurement
from erasediff.auditing.statistics import auc_interval, sign_flips
from erasediff.errors import BadInput


def share(hits, n, *, name="attack_success_x", margin=0.1, **options):
    rows = np.zeros(n)
    rows[:hits] = 1
    return finding(name, rows.mean(), rows_of(rows), margin=margin, **options)


def drawn(rng, p, n, **options):
    """Each row by itself: rows sorted as in ``share`` would be paired as if the models agreed on every image."""
    rows = rng.random(n) < p
    return finding("attack_success_x", rows.mean(), rows_of(rows), **options)


def finding(name, value, rows, *, margin=0.1, role="access", **options):
    measured = Measurement(
        name=name, group="g", subject="s", value=float(value), n=len(rows[0]), higher_is_better=False
    )
    return Finding(measured, Evidence(attack=name, role=role, rows=rows, margin=margin, **options))


def auc(members, others, **options):
    labels = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    value = roc_auc_score(labels, np.concatenate([members, others]))
    return finding("mia_auc_x", value, rows_of(members, others), statistic="auc", role="trace", **options)


def outcome(ours, theirs):
    return settled([compare(ours, theirs, seed=0)])[0].outcome


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [(120, 5, WORSE), (5, 5, EQUAL), (0, 0, EQUAL), (25, 5, UNCLEAR), (5, 120, UNCLEAR)],
)
def test_shares_of_200(ours, theirs, expected):
    assert outcome(share(ours, 200), share(theirs, 200)) == expected


def test_a_value_below_the_retrained_ones_tells_too_where_it_is_said_to():
    low, high = share(5, 200, hidden=True), share(120, 200)
    assert outcome(low, high) == LOWER


def test_nothing_of_few_is_not_known_exactly():
    """0 of 10 against 0 of 10: no difference was seen, but equality within 0.1 is not shown."""
    found = compare(share(0, 10), share(0, 10), seed=0)
    assert found.difference == 0
    assert found.low < 0 < found.high
    assert outcome(share(0, 10), share(0, 10)) == UNCLEAR
    assert found.p_permutation == 1.0


def test_the_error_of_an_auc_is_that_of_a_bootstrap():
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.6, 1, 150), rng.normal(0, 1, 100)
    theirs = members - 0.4 + rng.normal(0, 0.5, 150), others + rng.normal(0, 0.5, 100)
    ours = auc(members, others)
    found = compare(ours, auc(*theirs), seed=0)

    def resampled():
        i, j = rng.integers(150, size=150), rng.integers(100, size=100)
        labels = np.concatenate([np.ones(150), np.zeros(100)])
        one = roc_auc_score(labels, np.concatenate([members[i], others[j]]))
        return one - roc_auc_score(labels, np.concatenate([theirs[0][i], theirs[1][j]]))

    spread = np.std([resampled() for _ in range(600)])
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(spread, rel=0.15)


def test_equal_models_are_rarely_called_different_and_often_equal():
    """False alarms at most the stated 5 %, over 150 pairs of models with the same true share and ten comparisons each.

    The truth lies inside the margin, so that an alarm is wrong.
    """
    rng = np.random.default_rng(1)
    alarms, equal = 0, 0
    for _ in range(150):
        pairs = [[drawn(rng, 0.1, 150, margin=0.05) for _ in range(2)] for _ in range(10)]
        found = settled([compare(*pair, seed=0) for pair in pairs])
        alarms += any(c.outcome == WORSE for c in found)
        equal += sum(c.outcome == EQUAL for c in found)
    assert alarms <= 0.05 * 150
    assert equal > 0


def test_a_difference_of_exactly_the_margin_is_called_equal_at_most_as_often_as_stated():
    rng = np.random.default_rng(2)
    called = [outcome(drawn(rng, 0.2, 400), drawn(rng, 0.1, 400)) == EQUAL for _ in range(300)]
    assert np.mean(called) <= 0.08


def test_holm_counts_all_comparisons():
    ours, theirs = share(42, 200), share(8, 200)
    alone = compare(ours, theirs, seed=0).p_beyond
    together = settled([compare(ours, theirs, seed=0)] + [compare(share(5, 200), share(5, 200), seed=0)] * 9)
    assert together[0].p_beyond == pytest.approx(10 * alone)


def test_only_what_both_have_with_evidence_is_compared():
    bare = Finding(share(1, 10).measurement)
    ours = {"a": share(1, 10, name="a"), "b": share(1, 10, name="b"), "c": bare}
    assert [c.name for c in compared(ours, {"b": share(2, 10, name="b"), "c": bare}, seed=0)] == ["b"]


def test_unpaired_rows_have_the_error_of_two_samples():
    rng = np.random.default_rng(3)
    a, b = rng.random(150), rng.random(80)
    found = compare(finding("x", a.mean(), rows_of(a)), finding("x", b.mean(), rows_of(b)), seed=0)
    expected = np.sqrt(a.var() / 150 + b.var() / 80)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(expected, rel=0.25)


def test_flipped_signs():
    rng = np.random.default_rng(4)
    assert sign_flips([np.full(12, 0.3)], seed=0) < 0.01
    assert sign_flips([rng.normal(0, 1, 100)], seed=0) > 0.01
    with pytest.raises(BadInput):
        sign_flips([np.array([np.nan])], seed=0)


@pytest.mark.parametrize(("members", "least"), [(6, 0.91), (10, 0.92), (40, 0.93)])
def test_the_interval_of_an_auc_holds_the_truth_as_often_as_it_says(members, least):
    """With few samples too: variances over n and the normal quantile held it in 84 % with six, 89 % with ten."""
    rng, held = np.random.default_rng(7), []
    truth = norm.cdf(0.6 / np.sqrt(2))
    for _ in range(400):
        low, high = auc_interval(rng.normal(0.6, 1, members), rng.normal(0, 1, 355))
        held.append(low <= truth <= high)
    assert least - 0.02 <= np.mean(held) <= 0.99


@pytest.mark.parametrize("members", [6, 12])
def test_the_interval_of_a_difference_of_aucs_holds_the_truth_with_few_samples(members, monkeypatch):
    monkeypatch.setattr(comparison, "sign_flips", lambda *given, **options: 1.0)  # slow, and not asked here
    rng, held = np.random.default_rng(8), []
    truth = norm.cdf(0.6 / np.sqrt(2)) - 0.5
    for _ in range(400):
        a, b = rng.normal(0.6, 1, members), rng.normal(0, 1, 355)
        again = [0.7 * x + 0.7 * rng.normal(0, 1, len(x)) for x in (a - 0.6, b)]
        found = compare(auc(a, b), auc(*again), seed=0)
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.92


def test_one_score_says_nothing():
    assert auc_interval([1.0], np.arange(50)) == (0.0, 1.0)
    found = compare(auc(np.array([1.0]), np.arange(50.0)), auc(np.array([-1.0]), np.arange(50.0)), seed=0)
    assert (found.low, found.high) == (-1.0, 1.0) and settled([found])[0].outcome == UNCLEAR


def test_samples_of_one_copy_are_not_independent(monkeypatch):
    """Four repeats whose copies differ: taken as rows alone, the interval held the truth in 69 % of the audits."""
    monkeypatch.setattr(comparison, "sign_flips", lambda *given, **options: 1.0)  # slow, and not asked here
    rng = np.random.default_rng(9)

    def covered(blocks, repeats=4, samples=200):
        held = []
        for _ in range(200):
            means = np.clip(rng.normal(0.4, 0.08, (repeats, 1)), 0, 1)
            ours = (rng.random((repeats, samples)) < means).astype(float).ravel()
            theirs = (rng.random((repeats, samples)) < 0.4).astype(float).ravel()
            pair = [finding("x", r.mean(), rows_of(r), role="trace", blocks=blocks) for r in (ours, theirs)]
            found = compare(*pair, seed=0)
            held.append(found.low <= 0 <= found.high)
        return np.mean(held)

    assert covered(4) >= 0.9
    assert covered(1) < 0.8


def test_blocks_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="3 blocks of equal length cannot be made of 10 rows"):
        share(1, 10, blocks=3)
