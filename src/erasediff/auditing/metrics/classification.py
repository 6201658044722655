"""What an independent classifier sees in the samples: is the target gone, and are the others still there?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from erasediff.auditing.measuring import Detail, mean_measurement, share_measurement
from erasediff.auditing.result import ERASED, Measurement
from erasediff.auditing.statistics import resample_interval
from erasediff.errors import BadInput


def forget_measurements(
    probabilities: Tensor,
    target_classes: Sequence[int],
    *,
    subject: str = ERASED,
    seed: int,
    detail: Detail | None = None,
) -> list[Measurement]:
    """Of samples *conditioned on the target*, judged as ``probabilities`` [N, K]: three numbers of group "forget".

    ``forget_rate``: share in [0, 1] whose most likely class is a target class (1 - UA of the unlearning literature),
    Wilson interval. ``forget_probability``: mean probability of the target classes together. ``forget_entropy``: mean
    entropy of the judge in nats, 0..ln K; near ln K the samples are noise to the judge, a cheap way to a rate of 0.
    The last two carry bootstrap intervals. Lower is better for all three. Raises BadInput for malformed input.
    """
    judged = _checked(probabilities)
    targets = _targets(target_classes, judged.shape[1])
    shared = {**(detail or {}), "target_classes": targets}
    mass = judged[:, targets].sum(axis=1)
    entropy = _entropy(judged)
    return [
        share_measurement("forget_rate", "forget", subject, np.isin(judged.argmax(axis=1), targets), detail=shared),
        mean_measurement("forget_probability", "forget", subject, mass, seed=seed, detail=shared),
        mean_measurement(
            "forget_entropy",
            "forget",
            subject,
            entropy,
            seed=seed,
            detail={**shared, "maximum": float(np.log(judged.shape[1]))},
        ),
    ]


def unconditional_measurements(
    probabilities: Tensor,
    target_classes: Sequence[int],
    *,
    subject: str = ERASED,
    seed: int,
    detail: Detail | None = None,
) -> list[Measurement]:
    """Of samples drawn *without a condition*, judged as ``probabilities`` [N, K].

    ``forget_rate_unconditional`` (group "forget"): share called a target class; with classifier-free guidance an erased
    class comes back here first. ``class_entropy_unconditional`` (group "retain"): entropy in nats of the histogram of
    called classes, 0..ln K: the diversity that is left; plug-in estimate, a little low at small N.
    """
    judged = _checked(probabilities)
    targets = _targets(target_classes, judged.shape[1])
    called = judged.argmax(axis=1)
    histogram = np.bincount(called, minlength=judged.shape[1])
    shared = {**(detail or {}), "target_classes": targets, "histogram": histogram.tolist()}

    def diversity(classes: NDArray[np.intp]) -> float:
        return float(_entropy(np.bincount(classes, minlength=judged.shape[1])[None] / len(classes))[0])

    low, high = resample_interval(diversity, [called], seed=seed, resamples=1000)
    return [
        share_measurement("forget_rate_unconditional", "forget", subject, np.isin(called, targets), detail=shared),
        Measurement(
            name="class_entropy_unconditional",
            group="retain",
            subject=subject,
            value=diversity(called),
            low=max(low, 0.0),
            high=min(high, float(np.log(judged.shape[1]))),
            n=len(called),
            higher_is_better=True,
            detail={**shared, "maximum": float(np.log(judged.shape[1]))},
        ),
    ]


def retain_measurements(
    probabilities: Tensor,
    labels: Tensor | Sequence[int],
    *,
    subject: str = ERASED,
    class_names: Sequence[str] | None = None,
    detail: Detail | None = None,
) -> list[Measurement]:
    """Of samples conditioned on retained classes ``labels`` [N], judged as ``probabilities`` [N, K]; group "retain".

    ``retain_accuracy``: share that the judge calls what was asked for. ``retain_accuracy_worst``: the lowest accuracy
    of any class in ``labels``, with the class and the table of all in ``detail``. Both carry Wilson intervals; the
    worst class's is that of the class as if it had been named beforehand, and so a little low at small N.
    """
    judged = _checked(probabilities)
    asked = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if asked.shape != (len(judged),) or not np.isin(asked, np.arange(judged.shape[1])).all():
        raise BadInput(f"retained samples need one label each in 0..{judged.shape[1] - 1}; got shape {asked.shape}")
    right = judged.argmax(axis=1) == asked
    names = list(class_names) if class_names is not None else [str(k) for k in range(judged.shape[1])]
    present = [int(k) for k in np.unique(asked)]
    accuracy = {k: float(right[asked == k].mean()) for k in present}
    worst = min(present, key=accuracy.__getitem__)
    shared = {**(detail or {}), "per_class": {names[k]: accuracy[k] for k in present}}
    return [
        share_measurement("retain_accuracy", "retain", subject, right, higher_is_better=True, detail=shared),
        share_measurement(
            "retain_accuracy_worst",
            "retain",
            subject,
            right[asked == worst],
            higher_is_better=True,
            detail={**shared, "class": names[worst]},
        ),
    ]


def _entropy(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(stats.entropy(rows, axis=1))


def _checked(probabilities: Tensor) -> NDArray[np.float64]:
    judged = probabilities.detach().cpu().double().numpy()
    if judged.ndim != 2 or len(judged) == 0:
        raise BadInput(f"probabilities must have the shape [N, K] with N >= 1; got {list(judged.shape)}")
    # a diverged model draws NaN images, and argmax of NaN is a class like any other: such a rate must not be printed
    if not np.isfinite(judged).all() or judged.min() < 0 or np.abs(judged.sum(axis=1) - 1).max() > 1e-3:
        raise BadInput("probabilities must be finite, non-negative and sum to 1 in each row: did the model draw NaN?")
    return judged


def _targets(target_classes: Sequence[int], num_classes: int) -> list[int]:
    targets = sorted({int(k) for k in target_classes})
    if not targets or targets[0] < 0 or targets[-1] >= num_classes:
        raise BadInput(f"target classes must be in 0..{num_classes - 1}, at least one; got {list(target_classes)}")
    return targets
