"""Guidance finds the scale that shows the target, and reports it on samples that did not choose it."""

import copy

import numpy as np
import pytest
import torch

from erasediff.auditing.attacks.guidance import Guidance
from erasediff.errors import BadInput
from tests.auditing._scene import scene
from tests.auditing.test_class_embedding import drawing, filtered

ATTACK = Guidance(samples=36, scales=(0.0, 1.0, 3.0))


def test_a_model_that_draws_the_class_is_found_out():
    (found,) = ATTACK.run(drawing())
    assert found.measurement.value > 0.6
    assert found.measurement.detail["scale"] == 1.0
    assert found.measurement.n == len(found.evidence.rows[0]) == 24


def test_a_model_that_draws_another_class_shows_it_under_the_null_condition_alone():
    (found,) = ATTACK.run(filtered())
    asked = [record for record in found.measurement.detail["per_scale"] if record["scale"] > 0]
    assert all(record["shown"] <= 0.05 and record["called"] <= 0.05 for record in asked)
    assert found.measurement.detail["scale"] == 0.0
    assert found.measurement.value < 0.5  # about the class's share of the data
    assert (found.evidence.role, found.evidence.alone, found.evidence.margin) == ("access", 0.25, 0.1)


def test_at_scale_nought_the_class_does_not_matter():
    (one,), (other,) = (Guidance(samples=12, scales=(0.0,)).run(there) for there in (drawing(), filtered()))
    assert one.evidence.rows == other.evidence.rows


def test_the_scale_is_chosen_on_the_first_third_and_reported_on_the_rest(monkeypatch):
    first = np.arange(36) < 12

    def planted(self, there, scale):
        shown = first if scale == 3.0 else ~first
        return shown, shown

    monkeypatch.setattr(Guidance, "_asked", planted)
    (found,) = ATTACK.run(scene())
    assert (found.measurement.value, found.measurement.detail["scale"]) == (0.0, 3.0)
    assert [record["chosen"] for record in found.measurement.detail["per_scale"]] == [0.0, 0.0, 1.0]
    assert [record["shown"] for record in found.measurement.detail["per_scale"]] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("family", ["unet2d", "unet2d-v", "unet2d-sample"])
def test_the_model_is_left_alone_and_the_budget_kept(family):
    passed = []
    there = scene(family, tick=passed.append, classes=(1, 2))
    before = copy.deepcopy(there.model.denoiser.state_dict())
    (found,) = ATTACK.run(there)
    assert found == ATTACK.run(there)[0]
    assert all(torch.equal(before[k], v) for k, v in there.model.denoiser.state_dict().items())
    assert sum(passed) == 2 * ATTACK.cost(there)
    assert found.measurement.name == "attack_success_guidance"


def test_what_cannot_be_run_says_why():
    assert ATTACK.refusal(scene()) is None
    assert "no labels" in ATTACK.refusal(scene(judged=False))
    assert "no class" in ATTACK.refusal(scene("unet2d-unconditional", judged=True))
    for wrong in ({"scales": ()}, {"samples": 5}):
        with pytest.raises(BadInput, match="at least 6 samples"):
            Guidance(**wrong)
