"""How close the distribution of generated images is to the real one, in a named feature space."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from erasediff.auditing.metrics.balls import (
    NEIGHBOURS,
    Features,
    Neighbourhoods,
    Rows,
    checked,
    neighbourhoods,
    shares_left_out,
)
from erasediff.auditing.result import ERASED, Measurement
from erasediff.auditing.statistics import (
    bootstrap_mean,
    jackknife_groups,
    jackknife_interval,
    resample_interval,
    wilson,
)
from erasediff.errors import EraseDiffError

WIDEST_RESAMPLED = 256  # a Frechet distance costs D^3: above this width a hundred of them cost minutes
KERNEL_SUBSETS, LARGEST_SUBSET = 50, 1000


def distribution_measurements(
    real: Rows,
    generated: Rows,
    *,
    subject: str = ERASED,
    seed: int,
    features: str,
    k: int = NEIGHBOURS,
    resamples: int = 100,
    detail: Mapping[str, Any] | None = None,
) -> list[Measurement]:
    """Six numbers of group "retain" from features of real [N, D] and of generated images [M, D].

    frechet_distance and kernel_distance (lower is better; centred bootstrap intervals over both sets), precision,
    recall and coverage (shares; Wilson intervals, of the last two at least as wide as a jackknife's over the generated
    rows), density (bootstrap interval; 1 is par, above 1 is possible). ``features`` names the space; it, N, M, k and
    seed stand in ``detail``. ``n``: min(N, M) of a distance, M of precision and density, N of recall and coverage.
    Above 256 dimensions the Frechet distance has no interval. Frechet distances fall with N and M: compare at equal
    counts only. Raises BadInput for too few or non-finite rows.
    """
    x, y = checked(real, generated, least=k + 1)
    shared = {**(detail or {}), "features": features, "n_real": len(x), "n_generated": len(y), "k": k, "seed": seed}
    found = neighbourhoods(x, y, k)
    recall, coverage = _held(x, y, found, k, seed)
    rows = [
        *_distances(x, y, seed, resamples),
        _Row("precision", float(found.precise.mean()), *wilson(int(found.precise.sum()), len(y)), len(y)),
        _Row("recall", float(found.recalled.mean()), *recall, len(x)),
        _Row("density", float(found.density.mean()), *bootstrap_mean(found.density, seed=seed), len(y)),
        _Row("coverage", float(found.covered.mean()), *coverage, len(x)),
    ]
    return [Measurement(group="retain", subject=subject, detail=dict(shared), **row._asdict()) for row in rows]


def frechet_distance(real: Rows, generated: Rows) -> float:
    """Frechet distance of Gaussians fitted to real [N, D] and generated [M, D] rows (Heusel et al., arXiv:1706.08500).

    ||m_1 - m_2||^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), by torchmetrics. Where N or M <= D the covariance is singular:
    the value is defined, and biased upward. Raises BadInput for malformed rows.
    """
    x, y = _compact(*checked(real, generated, least=2))
    # torchmetrics subtracts N mean mean^T from a raw second moment; rows far from the origin would lose their digits
    centre = x.mean(axis=0)
    metric = _torchmetrics("fid", "FrechetInceptionDistance")(feature=_Passed(x.shape[1]))
    metric.update(torch.from_numpy(x - centre), real=True)
    metric.update(torch.from_numpy(y - centre), real=False)
    return max(float(metric.compute()), 0.0)  # rounding leaves -1e-12 for equal sets


def kernel_distance(
    real: Rows, generated: Rows, *, seed: int, subsets: int = KERNEL_SUBSETS, subset_size: int | None = None
) -> float:
    """Squared maximum mean discrepancy, kernel (x.y / D + 1)^3 (Binkowski et al., arXiv:1801.01401), by torchmetrics.

    Mean over ``subsets`` random subsets of ``subset_size`` rows (by default half of the smaller set, at most 1,000).
    Unbiased, so that it may fall below 0. The global random state is left alone. Raises BadInput for malformed rows.
    """
    x, y = checked(real, generated, least=2)
    size = subset_size or max(2, min(len(x) // 2, len(y) // 2, LARGEST_SUBSET))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Metric `Kernel Inception Distance` will save all", category=UserWarning
        )
        metric = _torchmetrics("kid", "KernelInceptionDistance")(
            feature=_Passed(x.shape[1]), subsets=subsets, subset_size=size
        )
    metric.update(torch.from_numpy(x), real=True)
    metric.update(torch.from_numpy(y), real=False)
    # torchmetrics draws its subsets from the global generator of the CPU and takes no other
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        mean, _ = metric.compute()
    return float(mean)


def _held(
    x: Features, y: Features, found: Neighbourhoods, k: int, seed: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Intervals of recall and coverage."""
    groups = jackknife_groups(len(y), seed=seed, least=k + 1)
    plain = [(hits, wilson(int(hits.sum()), len(x))) for hits in (found.recalled, found.covered)]
    if groups is None:
        return plain[0][1], plain[1][1]
    left_out = shares_left_out(x, y, groups, found.real_radius, k)
    both = []
    for (hits, (low, high)), values in zip(plain, left_out, strict=True):
        below, above = jackknife_interval(float(hits.mean()), [values])
        both.append((max(0.0, min(low, below)), min(1.0, max(high, above))))
    return both[0], both[1]


class _Row(NamedTuple):
    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    higher_is_better: bool = True


def _distances(x: Features, y: Features, seed: int, resamples: int) -> list[_Row]:
    """A Frechet distance is never below 0; the kernel estimate is unbiased and may be."""
    n = min(len(x), len(y))
    compact = _compact(x, y)
    frechet = frechet_distance(*compact)
    bounds: tuple[float | None, float | None] = (None, None)
    if compact[0].shape[1] <= WIDEST_RESAMPLED:
        low, high = resample_interval(frechet_distance, compact, resamples=resamples, seed=seed, value=frechet)
        bounds = max(low, 0.0), high
    # one subset, of all rows up to 1,000 (beyond, of as many at random): resampling is the randomness here, and many
    # random subsets would add their own
    whole = partial(kernel_distance, seed=seed, subsets=1, subset_size=min(n, LARGEST_SUBSET))
    kernel = kernel_distance(x, y, seed=seed)
    around = resample_interval(whole, [x, y], resamples=resamples, seed=seed, value=kernel)
    return [_Row("frechet_distance", frechet, *bounds, n, False), _Row("kernel_distance", kernel, *around, n, False)]


class _Passed(nn.Module):
    """Stands where torchmetrics expects Inception: our features go through as they are. ``num_features`` spares it a
    forward pass on a dummy image of 3 x 299 x 299; float64 in means float64 out."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _torchmetrics(module: str, name: str) -> Any:
    """The metric class, imported late (3 s). Raises EraseDiffError where torchmetrics cannot be imported."""
    try:
        return getattr(importlib.import_module(f"torchmetrics.image.{module}"), name)
    except (ImportError, RuntimeError) as error:
        # torchmetrics loads torch-fidelity wherever it finds it, and that needs torchvision
        if importlib.util.find_spec("torch_fidelity") and not importlib.util.find_spec("torchvision"):
            cure = (
                "torch-fidelity is installed without torchvision: pip uninstall torch-fidelity, or install torchvision"
            )
        else:
            cure = "pip install --force-reinstall torchmetrics"
        raise EraseDiffError(f"torchmetrics cannot be imported ({error}); {cure}") from error


def _compact(x: Features, y: Features) -> tuple[Features, Features]:
    """Rotated into the span of all rows where that has fewer dimensions; leaves the Frechet distance as it is."""
    if x.shape[1] <= len(x) + len(y):
        return x, y
    basis, _ = np.linalg.qr(np.concatenate([x, y]).T)
    return x @ basis, y @ basis
