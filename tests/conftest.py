"""Tests are offline and single-threaded, so that bits repeat and parallel workers do not fight."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

from erasediff.data.images import ImageData, build

torch.set_num_threads(1)


@pytest.fixture
def squares() -> ImageData:
    """80 grey images of 8 x 8 in four classes: the bright quadrant tells the class."""
    return make_squares()


@pytest.fixture
def small_audit(monkeypatch):
    """The quick suite with a few samples, and a judge of a few steps: what is tested is the way, not the numbers."""
    from dataclasses import replace
    from functools import partial

    import erasediff.api.judges as judges
    from erasediff.auditing.attacks.extraction import Extraction
    from erasediff.auditing.attacks.membership import Membership
    from erasediff.auditing.attacks.relearning import Relearning
    from erasediff.auditing.suites import SUITES

    few = {"forget": 20, "per_class": 6, "unconditional": 20, "num_inference_steps": 2, "resamples": 5}
    relearning = Relearning(images=(10,), steps=4, samples=8, points=2, repeats=1)
    few["attacks"] = (Extraction(samples=20), Membership(kinds=("loss",)), relearning)
    monkeypatch.setitem(SUITES, "quick", replace(SUITES["quick"], **few))
    monkeypatch.setattr(judges, "train_classifier", partial(judges.train_classifier, steps=40))


def make_squares(count: int = 80, classes: int = 4) -> ImageData:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    images = rng.integers(0, 60, (count, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 180
    return build("squares", images, labels.astype(np.int64))
