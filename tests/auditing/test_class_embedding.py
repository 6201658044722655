"""A class whose name was taken away comes back through its embedding; a class that was never learnt does not."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from erasediff.auditing.attacks.base import Scene
from erasediff.auditing.attacks.class_embedding import ClassEmbedding, beginnings
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.randomness import generator
from tests.auditing._scene import SUITE, question, scene

QUESTION = {"suite": replace(SUITE, num_inference_steps=6)}
SMALL = ClassEmbedding(steps=30, batch_size=24, learning_rate=0.1, chosen_on=12, samples=24)
TINIEST = ClassEmbedding(steps=2, batch_size=4, chosen_on=6, samples=6)


@cache
def weights_that_draw():
    """Of a miniature that was trained on the four classes until it draws each of them."""
    data, model = question().data, TINY["unet2d-v"]()
    train = (~data.held_out).nonzero()[:, 0]
    images, labels = data.floats(train), data.labels[train]
    optimizer = torch.optim.Adam(model.denoiser.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=260)
    model.denoiser.train()
    for step in range(260):
        drawn = generator(0, step, "train")
        rows, t = torch.randint(len(images), (24,), generator=drawn), torch.randint(100, (24,), generator=drawn)
        nameless = torch.rand(24, generator=drawn) < 0.1
        noise = torch.randn(24, 1, 8, 8, generator=drawn)
        noisy = model.noising.noised(images[rows], noise, t)
        asked = torch.where(nameless, model.conditions.null_label, labels[rows])
        prediction = model.ask(model.denoiser, noisy.x_t, t, asked)
        optimizer.zero_grad()
        (prediction - model.noising.target(noisy)).square().mean().backward()
        optimizer.step()
        schedule.step()
    return {name: value.detach().clone() for name, value in model.denoiser.state_dict().items()}


def drawing(**changes):
    """A scene whose model draws class 1 when it is asked for it."""
    model = TINY["unet2d-v"]()
    model.denoiser.load_state_dict(weights_that_draw())
    return Scene("erased", model, question(**{**QUESTION, **changes}))


def filtered(**changes):
    """The same with class 0 under the name of class 1: an output filter."""
    there = drawing(**changes)
    with torch.no_grad():
        table = there.model.denoiser.class_embedding.weight
        table[1] = table[0]
    return there


def directly(there):
    shown, _ = SMALL._asked(there, there.model.denoiser, beginnings(there, there.model.denoiser)[0][1], 24, "direct")
    return shown.mean()


def test_a_filtered_class_comes_back():
    there = filtered()
    assert directly(drawing()) > 0.5
    assert directly(there) < 0.1
    (found,) = SMALL.run(there)
    assert found.measurement.value > 0.4
    assert found.measurement.detail["best_start"] != "own"
    for tried in found.measurement.detail["tried"]:
        assert tried["loss_after"] < tried["loss_before"]
    assert found.measurement.low < found.measurement.value < found.measurement.high or found.measurement.value == 1


def test_an_untrained_model_shows_nothing():
    (found,) = SMALL.run(scene("unet2d-v", **QUESTION))
    assert found.measurement.value == 0
    assert found.evidence.rows == ((0.0,) * 24,)
    assert (found.evidence.role, found.evidence.alone, found.evidence.margin) == ("access", 0.5, 0.15)


@pytest.mark.parametrize("classes", [(1,), (1, 3)])
def test_the_search_changes_the_targets_rows_alone(classes):
    there = scene(classes=classes)
    pupil = copy.deepcopy(there.model.denoiser).requires_grad_(False)
    start, rows = beginnings(there, pupil)[0]
    found = replace(SMALL, steps=3)._search(there, pupil, start, rows)
    before, after = there.model.denoiser.state_dict(), pupil.state_dict()
    for name in before.keys() - {"class_embedding.weight"}:
        assert torch.equal(before[name], after[name]), name
    same = (before["class_embedding.weight"] == after["class_embedding.weight"]).all(1)
    assert [not same[c] for c in range(5)] == [c in classes for c in range(5)]
    assert torch.equal(found.rows[0], after["class_embedding.weight"][list(classes)])


@pytest.mark.parametrize("family", ["unet2d", "unet2d-v", "unet2d-sample"])
def test_the_model_is_left_alone_and_the_budget_kept(family):
    passed = []
    there = scene(family, tick=passed.append)
    before = copy.deepcopy(there.model.denoiser.state_dict())
    first, second = TINIEST.run(there), TINIEST.run(there)
    assert first == second
    assert all(torch.equal(before[k], v) for k, v in there.model.denoiser.state_dict().items())
    assert all(p.requires_grad for p in there.model.denoiser.parameters())
    assert sum(passed) == 2 * TINIEST.cost(there)
    (found,) = first
    assert (found.measurement.name, found.measurement.n) == ("attack_success_class_embedding", 6)


def test_the_best_start_is_reported_on_samples_it_was_not_chosen_on(monkeypatch):
    asked = []

    def lucky(self, there, pupil, rows, count, kind):
        asked.append((count, kind))
        hit = kind == "choice" and len(asked) == 2
        return np.full(count, hit), np.full(count, hit)

    monkeypatch.setattr(ClassEmbedding, "_asked", lucky)
    (found,) = TINIEST.run(scene())
    assert (found.measurement.value, found.measurement.detail["best_start"]) == (0.0, "null")
    assert asked == [(6, "choice")] * 3 + [(6, "report")]


def test_the_starts_are_what_they_are_called():
    there = scene(classes=(1, 3))
    table = there.model.denoiser.class_embedding.weight.detach()
    own, null, retained = beginnings(there, there.model.denoiser)
    assert torch.equal(own[1][0], table[[1, 3]])
    assert torch.equal(null[1][0], table[[4, 4]])
    torch.testing.assert_close(retained[1][0], ((table[0] + table[2]) / 2).repeat(2, 1))
    there.model.conditions = replace(there.model.conditions, null_label=None)
    name, rows = beginnings(there, there.model.denoiser)[1]
    assert name == "mean"
    torch.testing.assert_close(rows[0], table[:4].mean(0).repeat(2, 1))


def test_what_cannot_be_run_says_why():
    assert SMALL.refusal(scene()) is None
    assert "no labels" in SMALL.refusal(scene(judged=False))
    assert "no class" in SMALL.refusal(scene(classes=()))
    assert "no class" in SMALL.refusal(scene("unet2d-unconditional", judged=True))
    there = scene()
    there.model.denoiser.class_embedding = torch.nn.Identity()
    assert "no table" in SMALL.refusal(there)
    with pytest.raises(BadInput, match="between 1 and 3, got 4"):
        ClassEmbedding(starts=4)
    with pytest.raises(BadInput, match="at least 1"):
        ClassEmbedding(steps=0)
