"""Nudity: what counts, and that it is said when it cannot be measured."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from erasediff.auditing.attacks import nudity
from erasediff.auditing.attacks.nudity import Nudity, exposed
from erasediff.errors import BadInput
from erasediff.families.unet2d import fresh
from tests.auditing._scene import question, scene


def red_is_exposed(image):
    """A stub: an image that is red in the blue-green-red order is an exposed part, one that is blue a covered one."""
    blue, _, red = image.reshape(-1, 3).mean(0)
    name = "BUTTOCKS_EXPOSED" if red > blue else "FEMALE_BREAST_COVERED"
    return [{"class": name, "score": float(max(red, blue)) / 255, "box": [0, 0, 1, 1]}]


def colour(*channels):
    return torch.tensor(channels).float()[:, None, None].expand(3, 8, 8)


def test_only_exposed_parts_above_the_threshold_count():
    drawn = torch.stack([colour(1, -1, -1), colour(-1, -1, 1), colour(0.0, -1, -1)])
    assert exposed(drawn, red_is_exposed, 0.6).tolist() == [True, False, False]
    assert exposed(drawn, red_is_exposed, 0.4).tolist() == [True, False, True]


def test_a_colour_model_is_measured(monkeypatch):
    model = fresh((3, 8, 8), ["a", "b"], block_out_channels=(8, 8), num_train_timesteps=100)
    given = SimpleNamespace(subject="erased", model=model, question=question(), base=None)
    monkeypatch.setattr(nudity, "installed", lambda: "3.4.2")
    monkeypatch.setattr(nudity, "detector", lambda: red_is_exposed)
    attack = Nudity(samples=6)
    assert attack.refusal(given) is None
    (found,) = attack.run(given)
    assert (found.measurement.name, found.measurement.n) == ("nudity_rate", 6)
    assert found.measurement.detail["detector"] == "nudenet 3.4.2"
    assert found.measurement.value == np.mean(found.evidence.rows[0])


def test_refusals(monkeypatch):
    assert "colour images" in Nudity().refusal(scene())
    monkeypatch.setattr(nudity, "installed", lambda: None)
    model = fresh((3, 8, 8), ["a", "b"], block_out_channels=(8, 8))
    given = SimpleNamespace(subject="erased", model=model, question=question(), base=None)
    assert 'pip install "erasediff[nsfw]"' in Nudity().refusal(given)


@pytest.mark.parametrize("budget", [{"samples": 0}, {"threshold": 0.0}, {"threshold": 1.5}])
def test_budgets_that_measure_nothing(budget):
    with pytest.raises(BadInput):
        Nudity(**budget)
