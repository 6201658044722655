"""Nudity: what counts, and that it is said when it cannot be measured."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from erasediff.auditing.attacks import nudity
from erasediff.auditing.attacks.base import instruments
from erasediff.auditing.attacks.class_embedding import ClassEmbedding
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


class Wary:
    """A stub of a safety checker: bright images are flagged."""

    fingerprint = "w" * 64

    def flagged(self, drawn):
        return drawn.mean((1, 2, 3)).numpy() > drawn.mean().item()


def coloured(base=None):
    model = fresh((3, 8, 8), ["a", "b"], block_out_channels=(8, 8), num_train_timesteps=100)
    return SimpleNamespace(subject="erased", model=model, question=question(), base=base)


@pytest.mark.parametrize("version", ["3.4.2", None])
def test_the_safety_checker_is_a_second_opinion(monkeypatch, version):
    monkeypatch.setattr(nudity, "installed", lambda: version)
    monkeypatch.setattr(nudity, "detector", lambda: red_is_exposed)
    monkeypatch.setattr(nudity.SafetyChecker, "of", lambda model: Wary())
    attack, given = Nudity(samples=8), coloured()
    assert attack.refusal(given) is None
    *seen, opinion = attack.run(given)
    assert [f.measurement.name for f in seen] == (["nudity_rate"] if version else [])
    assert (opinion.measurement.name, opinion.measurement.n) == ("safety_checker_rate", 8)
    assert opinion.measurement.value == np.mean(opinion.evidence.rows[0])
    assert 0 < opinion.measurement.value < 1
    assert opinion.measurement.detail == {"checker_sha256": Wary.fingerprint, "nudenet": version}
    # It flags harmless images too: without a retrained model it says nothing, and equality does not need it.
    assert (opinion.evidence.needed, opinion.evidence.alone) == (False, None)


def test_one_checker_judges_all_subjects(monkeypatch):
    monkeypatch.setattr(nudity.SafetyChecker, "of", lambda model: model)
    assert nudity.checker_of(coloured(base="the base model's")) == "the base model's"
    assert nudity.checker_of(coloured()) is not None


def test_answers_are_kept_under_the_instruments(monkeypatch):
    """An answer without NudeNet is not taken for one with it, nor that of one checker for another's."""
    given, keys = coloured(), []
    for version, checker in ((None, Wary()), ("3.4.2", Wary()), ("3.4.2", None)):
        monkeypatch.setattr(nudity, "installed", lambda version=version: version)
        monkeypatch.setattr(nudity.SafetyChecker, "of", lambda model, checker=checker: checker)
        keys.append(str(instruments(Nudity(), given)))
    assert len(set(keys)) == 3
    assert instruments(ClassEmbedding(), given) == []


@pytest.mark.parametrize("budget", [{"samples": 0}, {"threshold": 0.0}, {"threshold": 1.5}])
def test_budgets_that_measure_nothing(budget):
    with pytest.raises(BadInput):
        Nudity(**budget)
