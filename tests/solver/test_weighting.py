from __future__ import annotations

import importlib.util
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchjd.aggregation import IMTLGWeighting

from erasediff.solver.weighting import aligned_mtl, cagrad, imtl_g, mgda, munba, nash_mtl, pcgrad, upgrad

from ._pairs import SETTINGS, cosines, drawn, exponents, matrix

RULES = [mgda, pcgrad, imtl_g, aligned_mtl, upgrad, nash_mtl, munba, cagrad]
inner_cosines = st.floats(-0.999, 0.999)
few = st.floats(-3, 3)

needs_cvxpy = pytest.mark.skipif(importlib.util.find_spec("cvxpy") is None, reason="torchjd[cagrad] is not installed")
needs_quadprog = pytest.mark.skipif(
    importlib.util.find_spec("quadprog") is None or importlib.util.find_spec("qpsolvers") is None,
    reason="torchjd[quadprog_projector] is not installed",
)
needs_ecos = pytest.mark.skipif(importlib.util.find_spec("ecos") is None, reason="torchjd[nash_mtl] is not installed")


def close(got: torch.Tensor, want: object, tolerance: float = 1e-9) -> None:
    want = torch.as_tensor(want, dtype=torch.float64)
    assert got.dtype == torch.float64 and got.shape == (2,)
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * float(want.abs().max() + 1e-300))


def squared_length(weights: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
    return weights @ G @ weights


@SETTINGS
@given(inner_cosines, few, few)
def test_for_two_gradients_the_rules_are_formulas(cos, retain, forget):
    r, f = 10**retain, 10**forget
    G = matrix(cos, r, f)
    share = min(1.0, max(0.0, (f * f - cos * r * f) / (r * r + f * f - 2 * cos * r * f)))
    close(mgda(G), [share, 1 - share], 1e-7)
    close(pcgrad(G), [1 + max(0.0, -cos * f / r), 1 + max(0.0, -cos * r / f)])
    close(imtl_g(G), IMTLGWeighting()(G / G.trace()), 1e-5)


@SETTINGS
@given(st.floats(-0.99, 0.99), st.floats(-1, 1))
def test_aligned_mtl_equalises_the_singular_values(cos, forget):
    G = matrix(cos, 1.0, 10**forget)
    values, vectors = torch.linalg.eigh(G)
    balance = vectors @ torch.diag((values[0] / values).sqrt()) @ vectors.T
    close(aligned_mtl(G), balance.sum(1) / 2, 1e-6)


@SETTINGS
@given(cosines, few, few)
def test_upgrad_is_half_of_pcgrad(cos, retain, forget):
    G = matrix(cos, 10**retain, 10**forget)
    close(upgrad(G), pcgrad(G) / 2)
    # It conflicts with neither gradient.
    assert (G @ upgrad(G) >= -1e-12 * G.diagonal().max()).all()


@SETTINGS
@given(inner_cosines, exponents, exponents)
def test_nash_solves_the_bargain_and_is_the_bisector_of_length_sqrt_two(cos, retain, forget):
    G = matrix(cos, 10**retain, 10**forget)
    w = nash_mtl(G)
    norms = G.diagonal().sqrt()
    torch.testing.assert_close(G @ w, 1 / w, rtol=1e-9, atol=0)
    torch.testing.assert_close(squared_length(w, G), torch.tensor(2.0).double(), rtol=1e-9, atol=0)
    projections = (G @ w) / norms
    torch.testing.assert_close(projections[0], projections[1], rtol=1e-9, atol=0)
    close(munba(G), w)


@SETTINGS
@given(cosines, few, few, st.sampled_from([1e-6, 1e-2, 1.0]))
def test_munba_with_xi(cos, retain, forget, xi):
    r, f = 10**retain, 10**forget
    factor = ((1 - cos) / (1 - cos * cos + xi)) ** 0.5
    got = munba(matrix(cos, r, f), xi=xi) * torch.tensor([r, f], dtype=torch.float64)
    torch.testing.assert_close(got, torch.full_like(got, factor), rtol=1e-6, atol=1e-4)


def test_munba_blows_up_as_the_gradients_oppose_and_vanishes_as_they_agree():
    assert munba(matrix(-1 + 1e-6)).min() > 900
    close(munba(matrix(-1.0), xi=1e-2), [200**0.5] * 2)
    assert munba(matrix(1.0), xi=1e-2).max() == 0
    close(munba(matrix(1.0)), [0.5**0.5] * 2)


@SETTINGS
@given(cosines, st.floats(-2, 2), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, 2.0]))
def test_cagrad_minimises_its_dual(cos, forget, c):
    G = matrix(cos, 1.0, 10**forget)
    mean = torch.full((2,), 0.5, dtype=torch.float64)
    radius = c * squared_length(mean, G).clamp(min=0).sqrt()

    def dual(share: torch.Tensor) -> torch.Tensor:
        w = torch.stack([share, 1 - share], -1)
        return (w @ G) @ mean + radius * ((w @ G) * w).sum(-1).clamp(min=0).sqrt()

    grid = dual(torch.linspace(0, 1, 4_001, dtype=torch.float64)).min()
    offset = cagrad(G, c=c) - mean
    scale = G.diagonal().max()
    # The worst descent that d = g_0 + radius g_w / ||g_w|| reaches is the dual's minimum (theorem 3.1).
    assert (G @ (offset + mean)).min() >= grid - 1e-6 * scale or (offset + mean).eq(0).all()
    assert squared_length(offset, G).clamp(min=0).sqrt() <= radius + 1e-6 * scale.sqrt()


def test_cagrad_beats_every_vector_of_its_ball():
    for seed, (cos, c) in enumerate([(-0.9, 0.5), (-0.3, 0.5), (0.5, 0.3), (-0.7, 0.9)]):
        G = matrix(cos, 1.0, 0.3)
        root = torch.linalg.cholesky(G)
        best = (G @ cagrad(G, c=c)).min()
        mean = root.mean(0)
        around = drawn(seed, 5000, 2)
        ball = mean + c * mean.norm() * around / around.norm(dim=1, keepdim=True)
        assert ((ball @ root.T).min(1).values <= best + 1e-9).all()


@pytest.mark.parametrize("rule", RULES)
def test_finite_everywhere_and_never_long(rule):
    norms = [(1.0, 1.0), (1.0, 1e-6), (1e-6, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    angles = [-1.0, -1 + 1e-13, -1 + 1e-9, 0.0, 1 - 1e-13, 1.0]
    for scale, cos, (retain, forget) in itertools.product([1e-6, 1.0, 1e6], angles, norms):
        G = matrix(cos, scale * retain, scale * forget)
        weights = rule(G)
        assert weights.shape == (2,) and weights.dtype == torch.float64
        assert weights.isfinite().all() and (rule is aligned_mtl or (weights >= 0).all())
        if rule not in (nash_mtl, munba):
            assert squared_length(weights, G) <= 4.1 * (scale * max(retain, forget)) ** 2


def test_what_is_documented_for_degenerate_gradients():
    opposed, parallel = matrix(-1.0, 1.0, 2.0), matrix(1.0, 1.0, 2.0)
    for rule in (mgda, pcgrad, upgrad, imtl_g):
        assert squared_length(rule(opposed), opposed).abs() < 1e-12
    for rule in (nash_mtl, munba):
        close(rule(opposed), [0.0, 0.0])
    close(mgda(parallel), [1.0, 0.0])
    close(pcgrad(parallel), [1.0, 1.0])
    close(upgrad(parallel), [0.5, 0.5])
    close(imtl_g(parallel), [2 / 3, 1 / 3])
    no_forget, nothing = matrix(0.0, 2.0, 0.0), matrix(0.0, 0.0, 0.0)
    close(mgda(no_forget), [0.0, 1.0])
    close(imtl_g(no_forget), [0.0, 1.0])
    close(cagrad(no_forget), [0.0, 0.0])
    close(nash_mtl(no_forget), [0.5, 0.0])
    for rule in (imtl_g, nash_mtl, munba):
        close(rule(nothing), [0.0, 0.0])
    for rule in (aligned_mtl, upgrad, cagrad):
        close(rule(nothing), [0.5, 0.5])
    close(cagrad(matrix(-1.0), c=0.5), [0.5, 0.5])
    close(cagrad(opposed, c=2.0), [0.0, 0.0])


@pytest.mark.parametrize("rule", RULES)
def test_scaling_both_gradients_scales_the_weights_as_the_rule_says(rule):
    G = matrix(-0.4, 1.0, 0.2)
    power = -1 if rule in (nash_mtl, munba) else 0
    for scale in (1e-6, 1e6):
        close(rule(scale**2 * G), rule(G) * scale**power, 1e-6)


def test_the_global_random_stream_is_left_alone():
    before = torch.get_rng_state()
    for rule in RULES:
        rule(matrix(-0.4))
    assert torch.equal(before, torch.get_rng_state())


@needs_cvxpy
@pytest.mark.parametrize("cos", [-0.9, -0.3, 0.5])
def test_cagrad_is_torchjds(cos):
    from torchjd.aggregation import CAGradWeighting

    G = matrix(cos, 1.0, 0.7)
    close(cagrad(G, c=0.5), CAGradWeighting(c=0.5)(G), 1e-4)


@needs_quadprog
@pytest.mark.parametrize("cos", [-0.9, -0.3, 0.5])
def test_upgrad_is_torchjds(cos):
    from torchjd.aggregation import UPGradWeighting

    G = matrix(cos, 1.0, 0.7)
    close(upgrad(G), UPGradWeighting()(G), 1e-2)


@needs_cvxpy
@needs_ecos
def test_nash_is_torchjds():
    from torchjd.aggregation import NashMTL

    J = torch.linalg.cholesky(matrix(-0.3, 1.0, 0.7))
    got = NashMTL(n_tasks=2, max_norm=0.0, optim_niter=100)(J)
    torch.testing.assert_close(got / got.norm(), (nash_mtl(J @ J.T) @ J) / 2**0.5, rtol=1e-2, atol=1e-2)
