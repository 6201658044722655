"""Extraction, as an attack: a planted model that draws the very samples which were to be forgotten."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from erasediff.auditing.attacks.base import BASE, CONTROL, RETRAINED
from erasediff.auditing.attacks.extraction import Extraction
from erasediff.auditing.result import ERASED
from erasediff.data.images import build
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from tests.auditing._scene import scene

GREY = torch.zeros(1, 8, 8)


class Memory(nn.Module):
    """A denoiser of x_0 that knows one picture for each class, or a single one."""

    def __init__(self, config, pictures):
        super().__init__()
        self.config = config
        self.pictures = nn.Parameter(pictures)

    def forward(self, x_t, t, condition, return_dict=False):
        return (self.pictures[torch.zeros_like(t) if condition is None else condition],)


def remembering(family, pictures, **changes):
    """A scene of samples to be forgotten whose model draws ``pictures(question)``."""
    here = scene(family, classes=(), judged=False, guidance_scale=1.0, **changes)
    model = TINY[family](prediction_type="sample") if family == "unet2d-unconditional" else here.model
    stub = Memory(model.denoiser.config, torch.stack(pictures(here.question)))
    return replace(here, model=replace(model, denoiser=stub))


def test_copies_drawn_by_class_are_found_and_counted_once():
    def pictures(question):
        forgotten = question.data.floats(question.forget)
        return [forgotten[0], forgotten[3], GREY, GREY, GREY]

    rate, reached = Extraction(samples=10).run(remembering("unet2d-sample", pictures))
    # Ten samples of four classes in turn: three of class 0, three of class 1, and two of each of the others.
    assert rate.evidence.rows == ((1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0),)
    assert (rate.measurement.name, rate.measurement.value, rate.measurement.n) == ("regeneration_rate", 0.6, 10)
    assert rate.measurement.low < 0.6 < rate.measurement.high
    assert (rate.evidence.attack, rate.evidence.role, rate.evidence.margin) == ("extraction", "asking", 0.005)
    assert (reached.measurement.name, reached.measurement.value) == ("regenerated_samples", 2 / 6)
    assert reached.evidence is None


def test_an_unconditional_model_is_asked_without_condition():
    def pictures(question):
        return [question.data.floats(question.forget)[2]]

    here = remembering("unet2d-unconditional", pictures)
    doubled = replace(here, question=replace(here.question, forget=here.question.forget.repeat(2)))
    for found in (Extraction(samples=4).run(here), Extraction(samples=4).run(doubled)):
        assert [f.measurement.value for f in found] == [1.0, 1 / 6]
        assert found[0].measurement.detail["asked"] == "without condition"
        assert found[0].measurement.detail["forgotten_images"] == 6


def test_what_was_retained_is_no_copy():
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 8), dtype=np.uint8)
    here = remembering(
        "unet2d-unconditional",
        lambda question: [question.data.floats(question.retain)[0]],
        data=build("noise", pixels, None),
    )
    assert [f.measurement.value for f in Extraction(samples=4).run(here)] == [0.0, 0.0]


@pytest.mark.parametrize("family", TINY)
def test_the_model_stays_the_bits_repeat_and_the_bar_ends_where_the_cost_says(family):
    ticks, attack = [], Extraction(samples=7)
    here = scene(family, classes=(), judged=False, tick=ticks.append)
    before = {k: v.clone() for k, v in here.model.denoiser.state_dict().items()}
    first, again = attack.run(here), attack.run(scene(family, classes=(), judged=False))
    assert [f.to_dict() for f in first] == [f.to_dict() for f in again]
    assert all(torch.equal(v, before[k]) for k, v in here.model.denoiser.state_dict().items())
    assert sum(ticks) == attack.cost(here)


def test_where_it_is_run_and_where_not():
    assert set(Extraction.SUBJECTS) == {ERASED, RETRAINED, BASE, CONTROL}
    assert Extraction().refusal(scene(classes=())) is None
    assert "the target is a class" in Extraction().refusal(scene())
    assert "no retained images" in Extraction().refusal(scene(classes=(), retain=torch.empty(0, dtype=torch.long)))
    with pytest.raises(BadInput, match="at least 1, got 0"):
        Extraction(samples=0)
