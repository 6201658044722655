"""CLIPScore (Hessel et al. 2021, arXiv:2104.08718): how well images go with the words they were asked for with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from erasediff.auditing.measuring import mean_measurement
from erasediff.auditing.result import ERASED, Measurement
from erasediff.errors import BadInput

WEIGHT = 100.0
"""The paper's section 3 has w = 2.5; 100 is what torchmetrics has and most papers print."""
NAMES = {"retain": "clip_score", "forget": "clip_score_target"}
HIGHER_IS_BETTER = {"retain": True, "forget": False}
"""Images of retained prompts should go with their words; the target's are expected not to."""

Scores = NDArray[np.float64]


def clip_scores(images: Tensor, texts: Tensor, asked: Tensor) -> Scores:
    """100 x max(cos, 0) [N] of image embeddings [N, D] with the text embeddings [P, D] at ``asked`` [N]."""
    cosines = (F.normalize(images.double()) * F.normalize(texts.double())[asked]).sum(1)
    return np.asarray(WEIGHT * cosines.clamp(min=0).numpy())


def score_measurement(
    scores: Scores, kind: str, *, subject: str = ERASED, seed: int, detail: Mapping[str, Any]
) -> Measurement:
    """``clip_score`` (kind "retain") or ``clip_score_target`` ("forget"): the mean of ``scores`` [N], 0 to 100.

    The bootstrap interval resamples images. Raises BadInput for scores that are not finite.
    """
    return _mean(NAMES[kind], kind, scores, kind, subject, seed, detail)


def change_measurement(
    base: Scores, scores: Scores, kind: str, *, subject: str = ERASED, seed: int, detail: Mapping[str, Any]
) -> Measurement:
    """``clip_score_change`` or ``clip_score_target_change``: mean difference from the base model's ``base`` [N].

    Row i of both was drawn from the same noise and prompt, so that the bootstrap resamples pairs. Raises BadInput for
    unequal shapes.
    """
    if base.shape != scores.shape:
        raise BadInput(f"paired scores need equal shapes; got {base.shape} and {scores.shape}")
    paired = {**detail, "base": float(base.mean()), "this": float(scores.mean())}
    return _mean(f"{NAMES[kind]}_change", kind, scores - base, "drift", subject, seed, paired)


def _mean(
    name: str, kind: str, values: Scores, group: str, subject: str, seed: int, detail: Mapping[str, Any]
) -> Measurement:
    if not np.isfinite(values).all():
        raise BadInput(f"{name} needs finite scores: did the model draw NaN?")
    better = HIGHER_IS_BETTER[kind]
    return mean_measurement(name, group, subject, values, seed=seed, higher_is_better=better, detail=detail)
