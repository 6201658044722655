from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from erasediff.errors import BadInput
from erasediff.solver.gram import gram
from erasediff.solver.multiplier import (
    Guard,
    constant,
    cosine_rule,
    dynamic_barrier,
    guard,
    projected_barrier,
    value_barrier,
)

from ._pairs import SETTINGS, cosines, drawn, exponents, matrix, pair, seeds

etas = st.sampled_from([0.0, 0.01, 0.1, 1.0, 10.0])
NONE = {"norm_floor": 0.0, "cap": math.inf}


@SETTINGS
@given(seeds, cosines, exponents, exponents, etas, st.one_of(st.none(), st.floats(0, 1e3)))
def test_the_barrier_holds_at_any_scale(seed, cos, retain, forget, eta, slack):
    g_r, g_f = pair(seed, cos, 10**retain, 10**forget)
    G = gram([[g_r], [g_f]])
    if slack is None:
        multiplier, level = dynamic_barrier(G, eta=eta), eta * G[1, 1]
    else:
        multiplier, level = value_barrier(G, eta=eta, slack=torch.tensor(slack)), eta * torch.tensor(slack).double()
    d = g_r + multiplier * g_f
    assert multiplier.dtype == torch.float64 and multiplier.shape == () and multiplier >= 0
    assert d @ g_f >= level - 1e-12 * (level.abs() + g_r.norm() * g_f.norm())
    # Complementary slackness: it pushes only where the retain gradient alone falls short, and then to equality.
    if multiplier > 0:
        assert d @ g_f <= level + 1e-12 * (level.abs() + g_r.norm() * g_f.norm())
    else:
        assert g_r @ g_f >= level - 1e-12 * (level.abs() + g_r.norm() * g_f.norm())


@SETTINGS
@given(seeds, st.floats(-1, 1), st.floats(-1, 1), etas)
def test_d_is_the_closest_vector_to_g_r_that_meets_the_barrier(seed, cos, forget, eta):
    g_r, g_f = pair(seed, cos, 1.0, 10**forget, n=5)
    G = gram([[g_r], [g_f]])
    level = eta * G[1, 1]
    d = g_r + dynamic_barrier(G, eta=eta) * g_f
    others = g_r + drawn(seed + 1, 200, 5) * torch.logspace(-4, 1, 200, dtype=torch.float64)[:, None]
    # Each is moved to the boundary where it falls short, so that all of them are feasible.
    others = others + ((level - others @ g_f).clamp(min=0) / G[1, 1])[:, None] * g_f
    assert ((others - g_r).norm(dim=1) >= (d - g_r).norm() - 1e-10).all()


@pytest.mark.parametrize("seed", range(12))
def test_d_is_what_a_quadratic_programme_finds(seed):
    cos, eta = -0.95 + 0.17 * seed, [0.1, 1.0, 2.0][seed % 3]
    g_r, g_f = pair(seed, cos, 1.0, 0.7, n=2 + seed % 4)
    G = gram([[g_r], [g_f]])
    d = g_r + dynamic_barrier(G, eta=eta) * g_f
    r, f, level = g_r.numpy(), g_f.numpy(), float(eta * G[1, 1])
    found = minimize(
        lambda x: ((x - r) ** 2).sum(),
        r,
        jac=lambda x: 2 * (x - r),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda x: x @ f - level, "jac": lambda x: f},
        options={"ftol": 1e-14},
    )
    assert found.success
    torch.testing.assert_close(d, torch.from_numpy(found.x), rtol=0, atol=1e-6)


@SETTINGS
@given(cosines, exponents, exponents, exponents, etas)
def test_scale_relations(cos, retain, forget, scale, eta):
    r, f, s = 10**retain, 10**forget, 10**scale
    base, both = matrix(cos, r, f), matrix(cos, s * r, s * f)
    close = {"rtol": 1e-9, "atol": 1e-9 * r / f}
    torch.testing.assert_close(dynamic_barrier(both, eta=eta), dynamic_barrier(base, eta=eta), **close)
    torch.testing.assert_close(cosine_rule(both, eta=eta), cosine_rule(base, eta=eta), rtol=1e-9, atol=1e-9)
    # Without a push the term lambda g_f does not know how long g_f is.
    longer = dynamic_barrier(matrix(cos, r, s * f), eta=0) * s
    torch.testing.assert_close(longer, dynamic_barrier(base, eta=0), **close)


@SETTINGS
@given(seeds, cosines, exponents, exponents, etas)
def test_the_projected_barrier_takes_the_conflict_out_and_pushes_by_eta_whatever_they_share(seed, cos, r, f, eta):
    g_r, g_f = pair(seed, cos, 10**r, 10**f)
    G = gram([[g_r], [g_f]])
    multiplier = projected_barrier(G, eta=eta)
    conflict_free = g_r - min(0.0, float(g_r @ g_f)) / float(g_f @ g_f) * g_f
    scale = g_r.norm() + eta * g_f.norm()
    torch.testing.assert_close(g_r + multiplier * g_f, conflict_free + eta * g_f, rtol=0, atol=1e-12 * float(scale))
    paper = dynamic_barrier(G, eta=eta)
    assert multiplier >= paper
    if G[0, 1] <= 0:
        assert multiplier == paper
    else:
        assert abs(multiplier - eta) <= 1e-12 * eta  # no cancellation, however unlike the lengths


def test_the_value_barrier_at_slack_zero_only_takes_away_what_conflicts():
    for slack in (torch.tensor(0.0), torch.tensor(-3.0)):
        g_r, g_f = pair(0, -0.6, 2.0, 3.0)
        d = g_r + value_barrier(gram([[g_r], [g_f]]), eta=5.0, slack=slack) * g_f
        assert abs(d @ g_f) < 1e-12
        assert value_barrier(matrix(0.6, 2.0, 3.0), eta=5.0, slack=slack) == 0


def test_the_released_cosine_rule_lets_the_forget_loss_rise():
    g_r, g_f = pair(0, -0.9, 10.0, 1.0)
    G = gram([[g_r], [g_f]])
    assert (g_r + cosine_rule(G, eta=0.1) * g_f) @ g_f < 0
    assert (g_r + dynamic_barrier(G, eta=0.1) * g_f) @ g_f > 0
    assert cosine_rule(matrix(0.5), eta=0.1) == 0
    torch.testing.assert_close(cosine_rule(matrix(-0.5), eta=0.1), torch.tensor(0.6).double(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("retain", [0.0, 1e-3, 1e6])
def test_a_zero_forget_gradient_gives_zero_not_nan(retain):
    G = matrix(0.0, retain, 0.0)
    slack = torch.tensor(1.0)
    for multiplier in (
        dynamic_barrier(G, eta=1.0),
        projected_barrier(G, eta=1.0),
        value_barrier(G, eta=1.0, slack=slack),
        cosine_rule(G, eta=1.0),
        constant(G, value=3.0),
    ):
        assert multiplier == 0
    assert dynamic_barrier(matrix(0.0, 0.0, 2.0), eta=0.5) == 0.5
    assert cosine_rule(matrix(0.0, 0.0, 2.0), eta=0.5) == 0.5
    assert constant(matrix(0.0, 0.0, 2.0), value=3.0) == 3


def test_no_guard_no_change():
    G = matrix(-0.5, 1.0, 1e-9)
    multiplier = dynamic_barrier(G, eta=1.0)
    guarded = guard(multiplier, G, **NONE)
    assert guarded.multiplier == multiplier and guarded.fired == 0 and guarded.fired.dtype == torch.int64
    assert guard(multiplier, G, **NONE, slack=torch.tensor(1.0), tolerance=0.5).fired == 0


def test_the_floor_divides_by_the_floor_instead():
    G = matrix(-0.5, 2.0, 1e-3)
    guarded = guard(dynamic_barrier(G, eta=1.0), G, norm_floor=1e-4, cap=math.inf)
    want = (G[1, 1] - G[0, 1]) / (1e-4 * G[0, 0])
    torch.testing.assert_close(guarded.multiplier, want)
    assert Guard(int(guarded.fired)) == Guard.FLOOR
    assert guard(dynamic_barrier(G, eta=1.0), G, norm_floor=1e-8, cap=math.inf).fired == 0


def test_the_floor_says_so_where_the_forget_gradient_is_zero():
    G = matrix(0.0, 1.0, 0.0)
    guarded = guard(value_barrier(G, eta=1.0, slack=torch.tensor(1.0)), G, norm_floor=1e-8, cap=10.0)
    assert guarded.multiplier == 0 and Guard(int(guarded.fired)) == Guard.FLOOR


def test_the_cap_caps_and_guards_add_up():
    G = matrix(-1.0, 1.0, 1e-3)
    multiplier = dynamic_barrier(G, eta=1.0)
    assert multiplier > 1000
    capped = guard(multiplier, G, norm_floor=0.0, cap=5.0)
    assert capped.multiplier == 5 and Guard(int(capped.fired)) == Guard.CAP
    both = guard(multiplier, G, norm_floor=1e-4, cap=5.0)
    assert both.multiplier == 5 and Guard(int(both.fired)) == Guard.FLOOR | Guard.CAP
    infinite = guard(torch.tensor(math.inf, dtype=torch.float64), G, norm_floor=0.0, cap=5.0)
    assert infinite.multiplier == 5


def test_nothing_is_forgotten_within_the_tolerance():
    G = matrix(-0.5)
    for slack in (-0.1, 0.1, 0.25):
        guarded = guard(dynamic_barrier(G, eta=1.0), G, **NONE, slack=torch.tensor(slack), tolerance=0.25)
        assert guarded.multiplier == 0 and Guard(int(guarded.fired)) == Guard.SKIP
    with pytest.raises(BadInput, match="tolerance needs the slack"):
        guard(dynamic_barrier(G, eta=1.0), G, **NONE, tolerance=0.25)


@SETTINGS
@given(cosines, exponents, exponents, st.floats(0, 1e-2), st.floats(1e-3, 1e3))
def test_where_nothing_fired_nothing_changed(cos, retain, forget, norm_floor, cap):
    G = matrix(cos, 10**retain, 10**forget)
    multiplier = dynamic_barrier(G, eta=0.5)
    guarded = guard(multiplier, G, norm_floor=norm_floor, cap=cap)
    assert 0 <= guarded.multiplier <= min(cap, multiplier)
    if guarded.fired == 0:
        assert guarded.multiplier == multiplier


def test_a_diverged_gradient_is_not_hidden():
    G = matrix(0.5)
    G[0, 1] = math.nan
    assert guard(dynamic_barrier(G, eta=1.0), G, norm_floor=1e-8, cap=10.0).multiplier.isnan()
