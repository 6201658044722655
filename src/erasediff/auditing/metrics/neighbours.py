"""The classes most like the target: where forgetting spills over first, before the mean over all classes shows it.

What an erasure costs falls on concepts near the target (Bui et al. 2025, arXiv:2501.18950; Amara et al. 2025,
arXiv:2501.09833).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial.distance import cdist
from torch import Tensor

from erasediff.auditing.metrics.classification import retain_measurements
from erasediff.auditing.result import ERASED, Measurement
from erasediff.errors import BadInput


def neighbours(features: Tensor, labels: Tensor, classes: Sequence[int], count: int = 2) -> tuple[int, ...]:
    """The ``count`` classes nearest to the target ``classes``, the nearest first; fewer where there are not as many.

    See :func:`distances_to_target` for arguments and errors; also raises BadInput for ``count`` < 1.
    """
    if count < 1:
        raise BadInput(f"count must be at least 1, got {count}")
    distances = distances_to_target(features, labels, classes)
    return tuple(sorted(distances, key=lambda k: (distances[k], k))[:count])


def distances_to_target(features: Tensor, labels: Tensor, classes: Sequence[int]) -> dict[int, float]:
    """Each other class and the Euclidean distance of its mean feature to the nearest mean of a target class.

    ``features`` [N, D] and ``labels`` [N] of real images: leave out the rows of classes that are neither. Raises
    BadInput for malformed rows and where there are no rows of a target class, or none of any other.
    """
    rows = features.detach().cpu().double().numpy()
    of = labels.detach().cpu().numpy()
    if rows.ndim != 2 or of.shape != (len(rows),) or not np.isfinite(rows).all():
        raise BadInput(
            f"neighbours need finite features [N, D] and a label each; got {[*rows.shape]} and {[*of.shape]}"
        )
    present = np.unique(of).tolist()
    targets, others = sorted(set(classes)), [k for k in present if k not in classes]
    missing = [k for k in targets if k not in present]
    if not targets or missing or not others:
        raise BadInput(
            f"neighbours need images of every target class {targets} and of another; there are images of {present}"
        )
    mean = {k: rows[of == k].mean(axis=0) for k in present}
    nearest = cdist([mean[k] for k in others], [mean[k] for k in targets]).min(axis=1)
    return dict(zip(others, nearest.tolist(), strict=True))


def neighbour_measurement(
    probabilities: Tensor,
    asked: Tensor,
    neighbours: Sequence[int],
    *,
    subject: str = ERASED,
    class_names: Sequence[str] | None = None,
    distances: Sequence[float] | None = None,
) -> Measurement:
    """``retain_accuracy_neighbours``: share that the judge calls what was asked for among samples of ``neighbours``.

    ``probabilities`` [N, K] of samples conditioned on ``asked`` [N]; samples of other classes are left out. Wilson
    interval, group "retain"; ``detail`` names the classes, with ``distances`` (one each) where given. Raises BadInput
    where no sample is of a neighbour, and for malformed input.
    """
    if asked.shape != (len(probabilities),):
        raise BadInput(f"samples need one label each; got {len(probabilities)} samples and labels {[*asked.shape]}")
    if distances is not None and len(distances) != len(neighbours):
        raise BadInput(f"each of {len(neighbours)} neighbours has one distance; got {len(distances)}")
    rows = np.isin(asked.cpu().numpy(), list(neighbours))
    if not rows.any():
        raise BadInput(f"no sample was asked for any of the neighbours {list(neighbours)}")
    accuracy, _ = retain_measurements(
        probabilities.cpu()[rows], asked.cpu()[rows], subject=subject, class_names=class_names
    )
    named = [class_names[k] if class_names is not None else str(k) for k in neighbours]
    detail = {**accuracy.detail, "neighbours": named}
    if distances is not None:
        detail["distances"] = [float(d) for d in distances]
    return replace(accuracy, name="retain_accuracy_neighbours", detail=detail)
