"""Revival: further training without the target, rounding and pruning of the weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from erasediff.auditing.attacks.pruning import Pruning, pruned
from erasediff.auditing.attacks.quantisation import Quantisation, quantised
from erasediff.auditing.attacks.relearning import configured, while_training
from erasediff.auditing.attacks.retain_training import RetainTraining
from erasediff.auditing.statistics import wilson
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from tests.auditing._scene import SUITE, question, scene

SMALL = [
    RetainTraining(steps=4, points=3, samples=6),
    Quantisation(samples=6),
    Pruning(samples=6),
]
NAMES = {
    "retain_training": ["attack_success_retain_training"],
    "quantisation": ["attack_success_quantised_8bit", "attack_success_quantised_4bit"],
    "pruning": ["attack_success_pruned_10", "attack_success_pruned_30"],
}
by_name = pytest.mark.parametrize("attack", SMALL, ids=lambda attack: attack.name)


def weights(module):
    return {name: value for name, value in module.named_parameters() if value.dim() >= 2}


@pytest.fixture(scope="module")
def never_erased():
    """A scene whose model draws the target."""
    asked = question(suite=replace(SUITE, num_inference_steps=6))
    rows, config = torch.cat([asked.forget, asked.retain]), configured(150, 1e-2, 32, seed=0)
    steps = while_training(TINY["unet2d-v"](), asked.data, rows, config, null_share=0.1, marks={150}, watch=lambda m: m)
    return replace(scene(), question=asked, model=next(steps))


def test_a_model_that_has_the_target_shows_it_again(never_erased):
    (trained,) = RetainTraining(steps=4, points=3, samples=24).run(never_erased)
    eight, _ = Quantisation(samples=24).run(never_erased)
    ten, _ = Pruning(samples=24).run(never_erased)
    for finding in (trained, eight, ten):
        assert finding.measurement.value > 0.7
    assert 0.0 < eight.measurement.detail["share_unconditional"] < 0.7  # one class in four
    assert trained.measurement.detail["forget_rate"][-1] == trained.measurement.value
    assert trained.measurement.detail["steps"] == [0, 2, 4]


def test_two_bits_destroy_it(never_erased):
    (found,) = Quantisation(bits=(2,), samples=24).run(never_erased)
    assert found.measurement.name == "attack_success_quantised_2bit"
    assert found.measurement.value < 0.5


@by_name
def test_an_untrained_model_shows_nothing(attack):
    found = attack.run(scene())
    assert [f.measurement.name for f in found] == NAMES[attack.name]
    for finding in found:
        assert finding.measurement.value == 0.0
        assert (finding.measurement.group, finding.measurement.n) == ("adversarial", 6)
        assert (finding.measurement.low, finding.measurement.high) == wilson(0, 6)


@by_name
@pytest.mark.parametrize("family", ["unet2d", "unet2d-v", "unet2d-sample"])
def test_the_model_stays_and_the_bits_repeat(attack, family):
    here = scene(family)
    before = {k: v.clone() for k, v in here.model.denoiser.state_dict().items()}
    first, again = attack.run(here), attack.run(scene(family))
    assert [f.to_dict() for f in first] == [f.to_dict() for f in again]
    assert all(torch.equal(v, before[k]) for k, v in here.model.denoiser.state_dict().items())
    for finding in first:
        (rows,) = finding.evidence.rows
        assert np.mean(rows) == finding.measurement.value
        assert (finding.evidence.role, finding.evidence.margin, finding.evidence.alone) == ("access", 0.1, 0.2)


@by_name
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_the_progress_bar_ends_where_the_cost_says(attack, guidance):
    ticks = []
    here = scene(guidance_scale=guidance, tick=ticks.append)
    attack.run(here)
    assert sum(ticks) == attack.cost(here)


@by_name
def test_without_a_judge_or_a_class_it_is_refused(attack):
    assert attack.refusal(scene()) is None
    assert "no labels" in attack.refusal(scene(judged=False))
    assert "no class" in attack.refusal(scene(classes=()))
    assert attack.refusal(scene("unet2d-unconditional")) is not None


def test_retain_training_never_sees_a_forgotten_image(monkeypatch):
    seen = []
    module = "erasediff.auditing.attacks.retain_training.while_training"
    monkeypatch.setattr(module, lambda model, data, chosen, config, **rest: seen.append(chosen) or iter([]))
    here = scene()
    SMALL[0].run(here)
    assert torch.equal(seen[0], here.question.retain)
    assert not set(seen[0].tolist()) & set(here.question.forget.tolist())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_is_off_by_half_a_step_at_most_and_touches_no_bias(bits):
    module = TINY["unet2d"]().denoiser
    rounded = quantised(module, bits)
    after = dict(rounded.named_parameters())
    for name, before in module.named_parameters():
        if before.dim() < 2:
            assert torch.equal(before, after[name])
            continue
        rows, changed = before.flatten(1), after[name].flatten(1)
        step = rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((rows - changed).abs() <= step / 2 * (1 + 1e-5)).all()
        whole = changed / step
        assert torch.allclose(whole, whole.round(), atol=1e-3)
        assert whole.abs().max() <= 2 ** (bits - 1) - 1 + 1e-3
        assert not torch.equal(rows, changed)


def test_the_slow_obvious_way_rounds_the_same():
    layer = nn.Conv2d(3, 2, 3)
    rounded = quantised(layer, 4).weight
    for channel in range(2):
        own = layer.weight[channel].flatten().tolist()
        step = max(abs(w) for w in own) / 7
        expected = [round(w / step) * step for w in own]
        assert rounded[channel].flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_rounding_twice_is_rounding_once():
    once = quantised(TINY["unet2d"](seed=3).denoiser, 4)
    twice = dict(quantised(once, 4).named_parameters())
    for name, value in once.named_parameters():
        assert torch.allclose(value, twice[name], rtol=1e-6, atol=0), name


def test_a_change_below_half_a_step_is_rounded_away_and_eight_bits_change_little():
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[7.0, -3, 2, 0], [1, 2, 3, 7], [0, 0, 0, 0]]))
    erased = nn.Linear(4, 3)
    erased.load_state_dict(layer.state_dict())
    with torch.no_grad():
        erased.weight[0, 1:] += 0.4
        erased.weight[1, :3] -= 0.4
    assert torch.allclose(quantised(erased, 4).weight, layer.weight, atol=1e-6)
    assert (quantised(erased, 8).weight - erased.weight).abs().max() <= 7 / 127 / 2 + 1e-6
    assert quantised(layer, 8).weight[2].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_exactly_that_share_of_the_weights_is_zero_and_they_were_the_smallest(share):
    module = TINY["unet2d"]().denoiser
    before, after = weights(module), weights(pruned(module, share))
    old, new = (torch.cat([w[name].flatten() for name in sorted(before)]) for w in (before, after))
    gone = new == 0
    assert int(gone.sum()) == round(share * len(old))
    assert torch.equal(new[~gone], old[~gone])
    assert old[gone].abs().max() <= old[~gone].abs().min()


def test_a_pruned_copy_has_the_keys_of_the_model_and_its_biases():
    module = TINY["unet2d"]().denoiser
    before, after = module.state_dict(), pruned(module, 0.3).state_dict()
    assert set(before) == set(after)
    flat = [name for name, value in before.items() if value.dim() < 2]
    assert flat
    assert all(torch.equal(before[name], after[name]) for name in flat)


@pytest.mark.parametrize("bits", [1, 17])
def test_bits_that_make_no_grid_are_refused(bits):
    with pytest.raises(BadInput, match="bits must lie between 2 and 16"):
        quantised(nn.Linear(2, 2), bits)
    with pytest.raises(BadInput, match="bits"):
        Quantisation(bits=(8, bits))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_shares_that_prune_nothing_or_all_are_refused(share):
    with pytest.raises(BadInput, match="between 0 and 1"):
        pruned(nn.Linear(2, 2), share)
    with pytest.raises(BadInput, match="between 0 and 1"):
        Pruning(shares=(0.1, share))


@pytest.mark.parametrize(
    ("kind", "changes", "match"),
    [
        (Pruning, {"shares": (0.125,)}, "whole percents"),
        (Pruning, {"shares": ()}, "number of shares"),
        (Pruning, {"samples": 5}, "samples must be at least 6"),
        (Quantisation, {"bits": ()}, "number of bit widths"),
        (Quantisation, {"samples": 5}, "samples must be at least 6"),
        (RetainTraining, {"samples": 5}, "samples must be at least 6"),
        (RetainTraining, {"steps": 3}, "steps must be at least 4"),
        (RetainTraining, {"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_budgets_that_measure_nothing_are_refused(kind, changes, match):
    with pytest.raises(BadInput, match=match):
        kind(**changes)
