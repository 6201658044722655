"""Which points lie in which balls: precision, recall, density and coverage, and how far they move from draw to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from erasediff.errors import BadInput

NEIGHBOURS = 5

Features = NDArray[np.float64]
Rows = Tensor | Features
"""Features [N, D] as a tensor or an array."""


@dataclass(frozen=True, kw_only=True)
class Neighbourhoods:
    """Which points lie in which balls; a ball reaches from a point to its k-th neighbour within its own set."""

    precise: NDArray[np.bool_]  # [M] generated point in a real ball: its mean is precision
    recalled: NDArray[np.bool_]  # [N] real point in a generated ball: recall
    density: Features  # [M] real balls around a generated point, over k: density
    covered: NDArray[np.bool_]  # [N] real ball that holds a generated point: coverage
    real_radius: Features  # [N] of the real balls


def neighbourhoods(real: Rows, generated: Rows, k: int = NEIGHBOURS) -> Neighbourhoods:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2), density and coverage
    (Naeem et al. 2020, arXiv:2002.09797, eq. 3 and 4), Euclidean, of real [N, D] and generated [M, D] rows.

    Raises BadInput for fewer than k + 1 rows.
    """
    x, y = checked(real, generated, least=k + 1)
    real_radius, generated_radius = _radii(x, k), _radii(y, k)
    around_generated = _balls_around(y, x, real_radius)
    nearest_generated, _ = NearestNeighbors(n_neighbors=1).fit(y).kneighbors(x)
    return Neighbourhoods(
        precise=around_generated > 0,
        recalled=_balls_around(x, y, generated_radius) > 0,
        density=around_generated / k,
        covered=nearest_generated[:, 0] <= real_radius,
        real_radius=real_radius,
    )


class Shares(NamedTuple):
    """Recall [G] and coverage [G] with each of G groups of the generated rows left out."""

    recall: Features
    coverage: Features


def shares_left_out(
    real: Features, generated: Features, groups: NDArray[np.int64], real_radius: Features, k: int = NEIGHBOURS
) -> Shares:
    """What recall and coverage of :func:`neighbourhoods` are without each group of ``generated`` [M, D] in turn.

    ``groups`` [M] from :func:`jackknife_groups`. All real points share the generated ones, so that their hits are not
    independent draws; distances are computed once for all groups.
    """
    names = np.unique(groups)
    radii = np.full((len(names), len(generated)), -1.0)  # below any distance: a ball of its own group holds nothing
    for g, name in enumerate(names):
        radii[g, groups != name] = _radii(generated[groups != name], k)

    def held(distances: Features, start: int) -> Features:
        recalled = np.stack([(distances <= reach).any(axis=1) for reach in radii], axis=1)
        nearest = np.stack([distances[:, groups == name].min(axis=1) for name in names], axis=1)
        others = np.stack([np.delete(nearest, g, axis=1).min(axis=1) for g in range(len(names))], axis=1)
        return np.stack([recalled, others <= real_radius[start : start + len(distances), None]], axis=1)

    chunks = pairwise_distances_chunked(real, generated, reduce_func=held, working_memory=64)
    recall, coverage = np.concatenate(list(chunks)).mean(axis=0)
    return Shares(recall, coverage)


def near_real(real: Rows, points: Rows, k: int = NEIGHBOURS) -> NDArray[np.bool_]:
    """Which ``points`` [M, D] lie in a ball of ``real`` [N, D]: those that precision counts (arXiv:1904.06991, eq. 1).

    With k real rows or fewer a ball reaches to the farthest of the others. Raises BadInput for fewer than 2 real rows.
    """
    x, y = checked(real, points, least=1)
    if len(x) < 2:
        raise BadInput("whether a sample is near a real image needs at least 2 real images, got 1")
    return _balls_around(y, x, _radii(x, min(k, len(x) - 1))) > 0


def _radii(rows: Features, k: int) -> Features:
    """Distance of each row to its k-th neighbour; sklearn leaves the row itself out where no query is given."""
    distances, _ = NearestNeighbors(n_neighbors=k).fit(rows).kneighbors()
    return np.asarray(distances[:, -1])


def _balls_around(points: Features, centres: Features, radii: Features) -> NDArray[np.int64]:
    """For each point the number of balls (centre, radius) that hold it; chunked, so that N x M is never in memory."""

    def count(distances: Features, _start: int) -> NDArray[np.int64]:
        return np.count_nonzero(distances <= radii, axis=1)

    return np.concatenate(list(pairwise_distances_chunked(points, centres, reduce_func=count, working_memory=64)))


def checked(real: Rows, generated: Rows, *, least: int) -> tuple[Features, Features]:
    """Both as float64 arrays on the CPU. Raises BadInput for malformed, too few or non-finite rows."""
    x, y = (torch.as_tensor(rows).detach().cpu().double().numpy() for rows in (real, generated))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise BadInput(f"features must be rows [N, D] of one width; got {[*x.shape]} real and {[*y.shape]} generated")
    if min(len(x), len(y)) < least:
        raise BadInput(f"at least {least} images of each kind are needed; got {len(x)} real and {len(y)} generated")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise BadInput("features must be finite; got NaN or infinite ones: did the model draw NaN?")
    return x, y
