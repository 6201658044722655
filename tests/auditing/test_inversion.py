"""Reconstructions only get better by fitting, and tell what a model was trained on from what it never saw."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from erasediff.auditing.attacks.base import Scene
from erasediff.auditing.attacks.inversion import Inversion, denoised, free_condition, grid, inverted, psnr, rebuild
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.randomness import generator
from tests.auditing._scene import question, scene

ATTACK = Inversion(images=6, steps=3, iterations=3)
FAMILIES = list(TINY)


@pytest.fixture(scope="module")
def of_one_class():
    """An unconditional miniature trained on the forget set alone: class 1, while the held-out images show all four."""
    data = question().data
    asked = question(classes=(), judged=False, forget=question().forget, retain=question().retain)
    model = TINY["unet2d-unconditional"](prediction_type="v_prediction")
    images = data.floats(asked.forget)
    optimizer = torch.optim.Adam(model.denoiser.parameters(), lr=4e-3)
    for step in range(100):
        drawn = generator(0, step, "train")
        t, noise = torch.randint(100, (len(images),), generator=drawn), torch.randn(images.shape, generator=drawn)
        noisy = model.noising.noised(images, noise, t)
        optimizer.zero_grad()
        (model.ask(model.denoiser, noisy.x_t, t, None) - model.noising.target(noisy)).square().mean().backward()
        optimizer.step()
    return Scene("erased", model, asked)


def test_what_was_trained_on_is_rebuilt_better_than_what_was_not(of_one_class):
    psnr_found, auc = Inversion(images=10, steps=4, iterations=3).run(of_one_class)
    held_out = np.mean(psnr_found.measurement.detail["psnr"]["held_out"])
    assert psnr_found.measurement.value > held_out
    assert auc.measurement.value > 0.6
    assert auc.measurement.low <= auc.measurement.value <= auc.measurement.high
    assert psnr_found.evidence is None
    assert (auc.evidence.role, auc.evidence.statistic, auc.evidence.hidden) == ("trace", "auc", False)
    assert [len(rows) for rows in auc.evidence.rows] == [10, 10]
    # With the two columns changed places the same numbers say the opposite.
    turned = replace(of_one_class.question, forget=of_one_class.question.held_out)
    turned.__dict__["held_out"] = of_one_class.question.forget
    _, other = Inversion(images=10, steps=4, iterations=3).run(replace(of_one_class, question=turned))
    assert other.measurement.value < 0.4


@pytest.mark.parametrize("family", FAMILIES)
def test_fitting_never_falls_below_the_start_and_gains(family):
    there = scene(family)
    found = ATTACK.run(there)[0].measurement.detail
    for kind in ("forgotten", "held_out"):
        start, best = np.array(found["psnr_start"][kind]), np.array(found["psnr"][kind])
        assert (best >= start).all()
        assert best.mean() > start.mean() + 0.1
    # Steps so large that fitting overshoots.
    wild = replace(ATTACK, learning_rate=50.0).run(there)[0].measurement.detail
    assert wild["psnr_start"] == found["psnr_start"]
    assert all(np.greater_equal(wild["psnr"][kind], wild["psnr_start"][kind]).all() for kind in wild["psnr"])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_is_fitted_as_if_it_were_alone(family):
    there = scene(family)
    images = there.question.data.floats(there.question.forget[:3])
    budget = {"steps": 3, "iterations": 3, "learning_rate": 0.05}
    labels = torch.tensor([0, 1, 2])
    _, together = rebuild(there.model, images, labels, **budget)
    _, alone = rebuild(there.model, images[1:2], labels[1:2], **budget)
    assert together[1] == pytest.approx(alone[0], abs=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_free_row_begins_as_the_null_row_and_the_rest_of_the_table_stays(family):
    model = TINY[family]()
    pupil = copy.deepcopy(model.denoiser).requires_grad_(False)
    condition, rows = free_condition(model, pupil, 3, torch.tensor([0, 1, 2]))
    if not model.conditions.num_classes:
        assert condition is None
        assert rows == []
        return
    tables = [table.weight for table in model.class_tables(model.denoiser)]
    for table, row in zip(tables, rows, strict=True):
        assert torch.equal(row, torch.cat([table, table[[4, 4, 4]]]))
    assert condition.tolist() == [5, 6, 7]
    shape = model.encode(torch.zeros(3, *model.image_shape)).shape
    x, t = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 50, 90])
    null = model.ask(model.denoiser, x, t, torch.full((3,), 4))
    free = model.ask(pupil, x, t, condition)
    assert torch.allclose(null, free, atol=1e-6)  # where a gradient is wanted products may be folded otherwise
    free.square().sum().backward()
    for row in rows:
        assert row.grad[:5].abs().max() == 0
        assert (row.grad[5:].abs().max(1).values > 0).all()
    model.conditions = replace(model.conditions, null_label=None)
    _, rows = free_condition(model, copy.deepcopy(model.denoiser), 2, torch.tensor([3, 1]))
    assert all(torch.equal(row[5:], table[[3, 1]]) for table, row in zip(tables, rows, strict=True))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_a_model_that_knows_the_answer_inverts_exactly(prediction_type):
    """DDIM with the true x_0 in hand leaves it where it is, whatever the view in which the model speaks."""
    model = TINY["unet2d"](prediction_type=prediction_type)
    truth = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def oracle(denoiser, x_t, t, condition):
        at = model.noising.noised(truth, truth, t)
        noise = (x_t - at.signal * truth) / at.sigma
        return model.noising.target(replace(at, noise=noise, x_t=x_t))

    model.ask = oracle
    noise = inverted(model, model.denoiser, truth, None, 6)
    assert psnr(denoised(model, model.denoiser, noise, None, 6), truth).min() > 60


def test_an_inverted_image_comes_back_better_than_from_any_other_noise(of_one_class):
    model, data = of_one_class.model, of_one_class.question.data
    x_0 = data.floats(of_one_class.question.forget[:4])
    with torch.no_grad():
        own = inverted(model, model.denoiser, x_0, None, 8)
        right = psnr(denoised(model, model.denoiser, own, None, 8), x_0)
        wrong = psnr(denoised(model, model.denoiser, own.roll(1, 0), None, 8), x_0)
    assert right.mean() > wrong.mean() + 2


def test_the_grid_keeps_off_both_ends():
    assert grid(TINY["unet2d"](), 4) == [12, 37, 62, 87]


def test_psnr_is_what_it_is_called():
    wanted = torch.zeros(2, 1, 8, 8)
    assert psnr(wanted + 0.2, wanted) == pytest.approx([20.0, 20.0], abs=1e-4)
    assert psnr(wanted, wanted) == pytest.approx([106.02, 106.02], abs=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_left_alone_and_the_budget_kept(family):
    passed = []
    there = scene(family, tick=passed.append)
    before = copy.deepcopy(there.model.denoiser.state_dict())
    first = ATTACK.run(there)
    assert [f.measurement.name for f in first] == ["inversion_psnr", "inversion_auc"]
    assert first == ATTACK.run(there)
    assert all(torch.equal(before[k], v) for k, v in there.model.denoiser.state_dict().items())
    assert sum(passed) == 2 * ATTACK.cost(there)


def test_what_cannot_be_run_says_why():
    assert ATTACK.refusal(scene("unet2d-unconditional")) is None
    data = question().data
    assert "no held-out" in ATTACK.refusal(scene(data=replace(data, held_out=torch.zeros_like(data.held_out))))
    for budget in ({"steps": 0}, {"images": 5}):
        with pytest.raises(BadInput, match="images must be at least 6, steps at least 1"):
            Inversion(**budget)
