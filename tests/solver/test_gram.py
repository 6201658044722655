from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erasediff.errors import BadInput
from erasediff.solver.gram import combine, cosine, gram, inner, quotient

from ._pairs import SETTINGS, cosines, drawn, exponents, matrix, pair, seeds

SHAPES = [(3,), (2, 3), (4, 3, 2, 2), ()]


def gradients(seed: int, scale: float = 1.0) -> list[torch.Tensor]:
    return [scale * drawn(seed + i, *shape) for i, shape in enumerate(SHAPES)]


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([x.reshape(-1) for x in tensors])


@SETTINGS
@given(seeds, st.lists(exponents, min_size=1, max_size=4), st.booleans())
def test_the_gram_matrix_is_that_of_the_concatenated_vectors(seed, scales, in_metric):
    lists = [gradients(seed + 10 * i, 10**e) for i, e in enumerate(scales)]
    metric = [x.abs() + 0.1 for x in gradients(seed + 99)] if in_metric else None
    rows = torch.stack([flat(g) for g in lists])
    weights = flat(metric) if in_metric else torch.ones_like(rows[0])
    slow = (rows * weights) @ rows.T
    got = gram(lists, metric)
    norms = slow.diagonal().sqrt()
    assert got.dtype == torch.float64 and got.shape == (len(scales), len(scales))
    assert torch.equal(got, got.T)
    assert ((got - slow).abs() <= 1e-13 * norms[:, None] * norms[None]).all()
    unit = got / norms[:, None] / norms[None]
    assert torch.linalg.eigvalsh(unit).min() >= -1e-12


def test_elements_are_paired_by_index_whatever_their_layout():
    a, b = drawn(0, 2, 3, 4, 5), drawn(1, 2, 3, 4, 5)
    last = torch.channels_last
    want = (a.reshape(-1) * b.reshape(-1)).sum()
    for left, right in [(a.to(memory_format=last), b), (a, b.to(memory_format=last)), (a.mT.contiguous().mT, b)]:
        torch.testing.assert_close(inner([left], [right]), want, rtol=1e-14, atol=0)
    mixed = combine([1.0, 2.0], [[a.to(memory_format=last)], [b]])[0]
    torch.testing.assert_close(mixed, a + 2 * b, rtol=0, atol=0)
    assert mixed.is_contiguous(memory_format=last)


def test_half_precision_neither_overflows_nor_loses_the_sum():
    a = torch.full((10_000,), 300.0, dtype=torch.float16)
    assert inner([a], [a]) == 9e8
    assert inner([a.bfloat16()], [a.bfloat16()]) == 300.0**2 * 10_000
    one, tiny = torch.ones(1), torch.full((1,), 1e-6)
    # A sum in fp32 would lose the second tensor.
    assert inner([one, tiny], [one, tiny]) > 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_combine_keeps_the_dtype_and_rounds_once(dtype):
    lists = [[x.to(dtype) for x in gradients(i)] for i in range(3)]
    weights = torch.tensor([1.0, 0.3, -2.0], dtype=torch.float64)
    for got, *terms in zip(combine(weights, lists), *lists, strict=True):
        want = sum(w * g.double() for w, g in zip(weights, terms, strict=True))
        assert got.dtype == dtype and got.shape == terms[0].shape
        torch.testing.assert_close(got.double(), want, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_combine_with_weight_one_gives_the_gradient_to_the_bit():
    g_r, g_f = gradients(0), gradients(5)
    for got, want in zip(combine([1, torch.zeros((), dtype=torch.float64)], [g_r, g_f]), g_r, strict=True):
        assert torch.equal(got, want)


@SETTINGS
@given(seeds, cosines, exponents, exponents)
def test_cosine_and_the_direct_gram_matrix_agree_with_the_construction(seed, cos, retain, forget):
    g_r, g_f = pair(seed, cos, 10**retain, 10**forget)
    got = gram([[g_r], [g_f]])
    torch.testing.assert_close(
        got, matrix(cos, 10**retain, 10**forget), rtol=1e-9, atol=1e-14 * 10 ** (retain + forget)
    )
    assert abs(cosine(got) - cos) < 1e-14


def test_cosine_of_a_zero_gradient_is_zero_and_of_tiny_ones_is_right():
    assert cosine(matrix(0.5, 0.0, 1.0)) == 0
    assert cosine(matrix(0.5, 1.0, 0.0)) == 0
    assert abs(cosine(matrix(0.5, 1e-150, 1e-150)) - 0.5) < 1e-9


def test_quotient_of_zero_by_zero_is_zero():
    x = torch.tensor([1.0, 0.0, 2.0])
    assert quotient(x, torch.tensor([0.0, 0.0, 4.0])).tolist() == [0, 0, 0.5]


def test_a_sum_over_shards_is_the_whole():
    g_r, g_f = gradients(0), gradients(7)
    parts = [gram([g_r[:2], g_f[:2]]), gram([g_r[2:], g_f[2:]])]
    shards = gram([g_r[:2], g_f[:2]], reduce=lambda mine: mine + parts[1])
    torch.testing.assert_close(shards, gram([g_r, g_f]), rtol=1e-14, atol=0)


def test_lists_that_do_not_belong_together_are_refused():
    a = torch.ones(3)
    with pytest.raises(BadInput, match="no gradients"):
        inner([], [])
    with pytest.raises(BadInput, match="number and shapes"):
        inner([a], [a, a])
    with pytest.raises(BadInput, match="number and shapes"):
        inner([a], [torch.ones(1)])
    with pytest.raises(BadInput, match="a weight for each gradient, got 1 for 2"):
        combine([1.0], [[a], [a]])
