"""Relearning: a model that has the target shows it from the start, one that never saw it has to learn it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from erasediff.auditing.attacks.relearning import Relearning, configured, while_training
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.randomness import derived_seed
from tests.auditing._scene import SUITE, question, scene

SMALL = Relearning(images=(1, 2), steps=4, points=3, samples=6, repeats=2)


def trained(rows):
    """A miniature that draws the squares of ``rows`` after a few seconds."""
    config = configured(150, 1e-2, 32, seed=0)
    marks, model = {150}, TINY["unet2d-v"]()
    steps = while_training(model, question().data, rows, config, null_share=0.1, marks=marks, watch=lambda m: m)
    return next(steps)


@pytest.fixture(scope="module")
def curves():
    """{who: findings} of a model that draws the target and of one trained without it."""
    asked = question(suite=replace(SUITE, num_inference_steps=6))
    having, without = trained(torch.cat([asked.forget, asked.retain])), trained(asked.retain)
    attack = Relearning(images=(1, 10), steps=20, points=3, samples=20, repeats=2, learning_rate=1e-3)
    here = replace(scene(), question=asked)
    return {"having": attack.run(replace(here, model=having)), "without": attack.run(replace(here, model=without))}


def test_what_was_never_gone_is_told_from_what_has_to_be_learned(curves):
    for having, without in zip(curves["having"], curves["without"], strict=True):
        assert having.measurement.value > 0.6
        assert without.measurement.value < having.measurement.value - 0.3
        assert without.measurement.detail["forget_rate"][0] < 0.1
        assert without.measurement.detail["forget_rate"][-1] > without.measurement.detail["forget_rate"][0]


def test_the_value_is_the_area_of_the_curve_and_the_mean_of_the_rows(curves):
    for finding in [*curves["having"], *curves["without"]]:
        measurement, (rows,) = finding.measurement, finding.evidence.rows
        detail = measurement.detail
        assert measurement.n == len(rows) == 40
        assert finding.evidence.blocks == 2
        assert np.mean(rows) == pytest.approx(measurement.value)
        # The slow obvious way: the mean of each stretch's two ends, weighed by its length.
        (a, b, c), steps = detail["forget_rate"], detail["steps"]
        area = ((a + b) / 2 * (steps[1] - steps[0]) + (b + c) / 2 * (steps[2] - steps[1])) / steps[2]
        assert area == pytest.approx(measurement.value)
        assert np.mean(detail["per_repeat"], axis=0) == pytest.approx(detail["forget_rate"])
        assert measurement.low <= measurement.value <= measurement.high
        assert min(rows) >= 0
        assert max(rows) <= 1


def test_all_k_of_a_repeat_start_from_the_same_samples(curves):
    one, ten = curves["having"]
    starts = [[curve[0] for curve in finding.measurement.detail["per_repeat"]] for finding in (one, ten)]
    assert starts[0] == starts[1]
    assert [f.evidence.attack for f in (one, ten)] == ["relearning (k = 1)", "relearning (k = 10)"]
    assert [f.evidence.role for f in (one, ten)] == ["trace", "trace"]


@pytest.mark.parametrize("family", ["unet2d", "unet2d-v", "unet2d-sample"])
def test_the_model_stays_and_the_bits_repeat(family):
    here = scene(family)
    before = {k: v.clone() for k, v in here.model.denoiser.state_dict().items()}
    first, again = SMALL.run(here), SMALL.run(scene(family))
    assert [f.to_dict() for f in first] == [f.to_dict() for f in again]
    assert all(torch.equal(v, before[k]) for k, v in here.model.denoiser.state_dict().items())
    assert {f.measurement.name for f in first} == {"relearn_k1", "relearn_k2"}


def test_training_moves_the_copy_and_depends_on_the_chosen_images():
    data, config = question().data, configured(3, 1e-3, 4, seed=derived_seed(0, 0, "relearning"))
    weights = {}
    for rows in ([0], [1]):
        copies = while_training(
            TINY["unet2d"](), data, torch.tensor(rows), config, null_share=0.0, marks=[1, 3], watch=lambda m: m.denoiser
        )
        *_, last = copies
        weights[rows[0]] = torch.nn.utils.parameters_to_vector(last.parameters())
    start = torch.nn.utils.parameters_to_vector(TINY["unet2d"]().denoiser.parameters())
    assert not torch.equal(weights[0], start)
    assert not torch.equal(weights[0], weights[1])


def test_k_above_the_forget_set_is_cut_and_what_is_then_the_same_is_asked_once():
    forget = question().forget[:6].repeat(2)  # six distinct images
    attack = replace(SMALL, images=(2, 8, 50))
    found = attack.run(scene(forget=forget))
    assert [f.measurement.name for f in found] == ["relearn_k2", "relearn_k6"]
    assert [f.measurement.detail["k"] for f in found] == [2, 6]
    assert found[1].measurement.detail["train_batch_size"] == 16


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_the_progress_bar_ends_where_the_cost_says(guidance):
    ticks = []
    here = scene(guidance_scale=guidance, tick=ticks.append)
    SMALL.run(here)
    assert sum(ticks) == SMALL.cost(here)


def test_without_a_judge_or_a_class_it_is_refused():
    assert "no labels" in SMALL.refusal(scene(judged=False))
    assert "no class" in SMALL.refusal(scene(classes=()))
    assert "no labels" in SMALL.refusal(scene("unet2d-unconditional"))
    assert SMALL.refusal(scene()) is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"images": ()}, "images must be at least 1, got 0"),
        ({"images": (3, 0)}, "images must be at least 1, got 0"),
        ({"repeats": 0}, "repeats"),
        ({"points": 1}, "points must be at least 2"),
        ({"steps": 3, "points": 5}, "steps must be at least 4, got 3"),
        ({"samples": 5}, "samples must be at least 6"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
    ],
)
def test_budgets_that_measure_nothing_are_refused(changes, match):
    with pytest.raises(BadInput, match=match):
        Relearning(**changes)


def test_the_interval_holds_the_spread_of_the_repeats_too():
    from erasediff.auditing.attacks.relearning import _interval

    alike = np.tile([0.2, 0.4], 50)
    apart = np.concatenate([np.full(50, 0.1), np.full(50, 0.5)])
    narrow, wide = _interval(alike, 2, 0), _interval(apart, 2, 0)
    assert narrow[0] < 0.3 < narrow[1]
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    assert 0 <= wide[0] <= wide[1] <= 1
