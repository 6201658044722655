"""Multi-task rules as weights [w_r, w_f] of the 2x2 Gram matrix; the direction is w_r g_r + w_f g_f.

MGDA, PCGrad and Aligned-MTL are TorchJD's; on four numbers they run on the CPU, so they wait for the device once a
step. The rest have closed forms for two gradients, written here from their papers, which wait for nothing: TorchJD's
CAGrad, Nash-MTL and UPGrad need extras, and its IMTL-G turns on opposed gradients (lengths 1 and 2) to [-1, 2], which
climbs the retain loss. Every rule returns finite weights for opposed, parallel and zero gradients; what, is said at
each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from erasediff.solver.gram import cosine, quotient

# A sum of two opposed gradients whose square is this small against theirs is rounding error.
OPPOSED = 1e-12


def mgda(gram: Tensor) -> Tensor:
    """The shortest convex combination (Desideri 2012; Sener and Koltun 2018, arXiv:1810.04650, algorithm 2).

    Opposed: d = 0. Parallel: the shorter gradient alone. One zero: all weight on it, so d = 0.
    """
    from torchjd.aggregation import MGDAWeighting

    return _torchjd(MGDAWeighting(), gram)


def pcgrad(gram: Tensor) -> Tensor:
    """The sum, each gradient first projected off the other if they conflict (Yu et al. 2020, arXiv:2001.06782).

    Opposed: d = 0. Parallel or one zero: the plain sum, [1, 1].
    """
    from torchjd.aggregation import PCGradWeighting

    return _torchjd(PCGradWeighting(), gram)


def imtl_g(gram: Tensor) -> Tensor:
    """Equal projections on both gradients, weights summing to 1 (Liu et al. 2021, IMTL-G): w_i ~ 1 / ||g_i||.

    d bisects the gradients. Opposed: d = 0. One zero: all weight on it, so d = 0. Both zero: [0, 0].
    """
    norms = gram.diagonal().sqrt()
    return quotient(norms.flip(0), norms.sum())


def aligned_mtl(gram: Tensor) -> Tensor:
    """The mean of the gradients after their matrix is given equal singular values (Senushkin et al., CVPR 2023).

    A weight may be negative. Parallel, opposed or one zero: the one principal component that is left, so of opposed
    gradients the longer falls and the shorter rises. Both zero: [1/2, 1/2].
    """
    from torchjd.aggregation import AlignedMTLWeighting

    return _torchjd(AlignedMTLWeighting(), gram)


def upgrad(gram: Tensor) -> Tensor:
    """The mean of the gradients projected on the cone of no conflict (Quinton and Rey 2024, arXiv:2406.16232, UPGrad).

    Of two, each projects off the other alone, so it is half of :func:`pcgrad`: w_i = (1 + max(0, -<g_r, g_f>) /
    ||g_i||^2) / 2. Opposed: d = 0. Parallel or one zero: [1/2, 1/2].
    """
    conflict = (-gram[0, 1]).clamp(min=0)
    return (1 + quotient(conflict.expand(2), gram.diagonal())) / 2


def nash_mtl(gram: Tensor) -> Tensor:
    """The bargaining solution G w = 1/w (Navon et al. 2022, arXiv:2202.01017, eq. 4): w_i = 1 / (||g_i|| sqrt(1+cos)).

    d has length sqrt 2 and bisects the gradients, whatever their lengths. Opposed: [0, 0], there is no bargain. One
    zero: 0 for it, and 1/||g|| for the other. Parallel: 1 / (sqrt 2 ||g_i||).
    """
    return munba(gram)


def munba(gram: Tensor, *, xi: float = 0.0) -> Tensor:
    """Two-player bargain between retain and forget (Wu and Harandi 2024, arXiv:2411.15537).

    w_i = sqrt((1 - cos) / (sin^2 + xi)) / ||g_i||. At ``xi=0`` that is 1 / (||g_i|| sqrt(1 + cos)), Nash-MTL of two,
    with its degenerate cases. With ``xi`` above 0 opposed gradients get large finite weights, and d vanishes as the
    gradients agree (parallel: [0, 0]).
    """
    cos = cosine(gram)
    # 1 - cos^2 factored: (1 - cos) cancels at xi = 0, where parallel gradients would give 0 / 0.
    squared = (1 - cos) / ((1 - cos) * (1 + cos) + xi) if xi > 0 else quotient(torch.ones_like(cos), 1 + cos)
    if xi == 0:
        squared = torch.where(1 + cos <= OPPOSED, torch.zeros_like(squared), squared)
    return quotient(squared.sqrt().expand(2), gram.diagonal().sqrt())


def cagrad(gram: Tensor, *, c: float = 0.5) -> Tensor:
    """The d with the best worst-case descent within c ||g_0|| of the mean g_0 (Liu et al. 2021, arXiv:2110.14048).

    Their dual, min over w in [0, 1] of <g_w, g_0> + c ||g_0|| ||g_w|| with g_w = w g_r + (1 - w) g_f, is convex with
    a closed minimum (see :func:`_cagrad_share`); d = g_0 + c ||g_0|| g_w / ||g_w||. Where g_w = 0 (one zero, or
    opposed and c >= 1) there is no common descent: [0, 0]. Both zero, or g_0 = 0: d = 0.
    """
    scaled = _scaled(gram)
    radius = c * (scaled.sum() / 4).clamp(min=0).sqrt()
    share = _cagrad_share(scaled, radius)
    w = torch.stack([share, 1 - share])
    squared = (w @ scaled @ w).clamp(min=0)
    weights = 0.5 + quotient(radius, squared.sqrt()) * w
    # What is left of g_w is rounding error, where its two terms cancelled.
    stuck = (squared <= OPPOSED * (w.square() * scaled.diagonal()).sum()) & (radius > 0)
    return torch.where(stuck, torch.zeros_like(weights), weights)


def _cagrad_share(gram: Tensor, radius: Tensor) -> Tensor:
    """The share w of g_r that minimises <g_w, g_0> + radius ||g_w||, 0-dim.

    With D = g_r - g_f, A = ||D||^2 and s = <D, g_w> = A w + <D, g_f>, the slope is B + radius s / ||g_w|| where
    B = <D, g_0> and ||g_w||^2 = (s^2 + det G) / A. It vanishes at s = -B sqrt(det G / (radius^2 A - B^2)), and
    nowhere if radius^2 A <= B^2: then the best is an end.
    """
    rr, rf, ff = gram[0, 0], gram[0, 1], gram[1, 1]
    spread, slope = rr + ff - 2 * rf, (rr - ff) / 2
    room = radius.square() * spread - slope.square()
    determinant = (rr * ff - rf.square()).clamp(min=0)
    s = -slope * quotient(determinant, room.clamp(min=0)).sqrt()
    inside = quotient(s + ff - rf, spread).clamp(0, 1)
    end = 0.5 - 0.5 * slope.sign()
    return torch.where(room > 0, inside, end)


def _torchjd(weighting: Callable[[Tensor], Tensor], gram: Tensor) -> Tensor:
    """TorchJD's weights [2] of a Gram matrix, whatever its scale, leaving the global random stream as it was."""
    # Its PCGrad draws a permutation (of no effect on two gradients) from the global stream.
    with torch.random.fork_rng(devices=[]):
        return weighting(_scaled(gram).cpu()).to(gram)


def _scaled(gram: Tensor) -> Tensor:
    """The Gram matrix over its trace: weights of sums to one do not change, and fixed tolerances mean something."""
    return quotient(gram, gram.trace())
