"""CLIPScore: the formula of the paper, slowly; order and pairing."""

import numpy as np
import pytest
import torch

from erasediff.auditing.metrics.clip_score import change_measurement, clip_scores, score_measurement
from erasediff.errors import BadInput

RNG = np.random.default_rng(0)
IMAGES, TEXTS, ASKED = RNG.normal(size=(9, 4)), RNG.normal(size=(3, 4)), np.arange(9) % 3
GIVEN = {"seed": 0, "detail": {"clip": "tiny"}}


def scores(order=slice(None)):
    return clip_scores(torch.tensor(IMAGES[order]), torch.tensor(TEXTS), torch.tensor(ASKED[order]))


def test_the_slow_formula():
    slow = []
    for image, asked in zip(IMAGES, ASKED, strict=True):
        text = TEXTS[asked]
        slow.append(100 * max(image @ text / np.sqrt((image @ image) * (text @ text)), 0))
    assert np.allclose(scores(), slow)
    assert min(slow) == 0 < max(slow) <= 100  # some point away from their text, and count as 0
    measured = score_measurement(scores(), "retain", **GIVEN)
    assert measured.value == pytest.approx(np.mean(slow))
    assert measured.low < measured.value < measured.high
    assert (measured.name, measured.group, measured.n, measured.higher_is_better) == ("clip_score", "retain", 9, True)


def test_lengths_and_order_do_not_matter():
    order = RNG.permutation(9)
    longer = clip_scores(7 * torch.tensor(IMAGES), 0.1 * torch.tensor(TEXTS), torch.tensor(ASKED))
    assert np.allclose(longer, scores())
    assert np.allclose(scores(order), scores()[order])
    assert score_measurement(scores(order), "forget", **GIVEN).value == pytest.approx(scores().mean())


def test_the_target_is_measured_apart():
    measured = score_measurement(scores(), "forget", **GIVEN)
    assert (measured.name, measured.group, measured.higher_is_better) == ("clip_score_target", "forget", False)


def test_change_is_paired():
    """A shift that is the same in every pair is known exactly, whatever the spread of the scores."""
    measured = change_measurement(scores() + 3.0, scores(), "forget", **GIVEN)
    assert (measured.name, measured.group) == ("clip_score_target_change", "drift")
    assert measured.value == pytest.approx(-3.0)
    assert measured.high - measured.low < 1e-9


def test_bad_scores():
    with pytest.raises(BadInput, match="did the model draw NaN"):
        score_measurement(np.array([1.0, np.nan]), "retain", **GIVEN)
    with pytest.raises(BadInput, match="equal shapes"):
        change_measurement(np.zeros(3), np.zeros(4), "retain", **GIVEN)
