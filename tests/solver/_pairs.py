"""Pairs of gradients to ask the solver about: any lengths, any angle."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60, database=None)

exponents = st.floats(-6, 6)
cosines = st.one_of(st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-1, 1))
seeds = st.integers(0, 2**31 - 1)


def drawn(seed: int, *shape: int) -> Tensor:
    """Standard normal fp64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(
    seed: int, cos: float, retain_norm: float = 1.0, forget_norm: float = 1.0, n: int = 7
) -> tuple[Tensor, Tensor]:
    """(g_r, g_f) [n] with the given cosine and norms, in fp64."""
    basis = torch.linalg.qr(drawn(seed, n, 2)).Q.T
    direction = cos * basis[0] + (1 - cos * cos) ** 0.5 * basis[1]
    return retain_norm * direction, forget_norm * basis[0]


def matrix(cos: float, retain_norm: float = 1.0, forget_norm: float = 1.0) -> Tensor:
    """The Gram matrix [2, 2] of such a pair, without the pair."""
    off = cos * retain_norm * forget_norm
    return torch.tensor([[retain_norm**2, off], [off, forget_norm**2]], dtype=torch.float64)
