"""Measurements that are a share or a mean of rows, with the interval that belongs to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erasediff.auditing.result import Measurement
from erasediff.auditing.statistics import bootstrap_mean, wilson

Detail = Mapping[str, Any]
"""Instruments behind a number (judge, its accuracy, sampling): copied into every measurement's detail."""


def share_measurement(
    name: str, group: str, subject: str, hits: NDArray[np.bool_], *, higher_is_better: bool = False, detail: Detail
) -> Measurement:
    """The share of ``hits`` [N] with its Wilson interval."""
    bounds = wilson(int(hits.sum()), len(hits))
    return _measurement(name, group, subject, hits, bounds, higher_is_better, detail)


def mean_measurement(
    name: str,
    group: str,
    subject: str,
    values: NDArray[np.float64],
    *,
    seed: int,
    higher_is_better: bool = False,
    detail: Detail,
) -> Measurement:
    """The mean of ``values`` [N] with its bootstrap interval. Raises BadInput for none, and for values not finite."""
    bounds = bootstrap_mean(values, seed=seed)
    return _measurement(name, group, subject, values, bounds, higher_is_better, detail)


def _measurement(
    name: str,
    group: str,
    subject: str,
    rows: NDArray[Any],
    bounds: tuple[float, float],
    higher_is_better: bool,
    detail: Detail,
) -> Measurement:
    return Measurement(
        name=name,
        group=group,
        subject=subject,
        value=float(rows.mean()),
        low=bounds[0],
        high=bounds[1],
        n=len(rows),
        higher_is_better=higher_is_better,
        detail=dict(detail),
    )
