"""Membership with the weights in hand: gradients one image at a time, and what the update itself gives away."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from erasediff.auditing.attacks import weight_difference
from erasediff.auditing.attacks.gradient_membership import GradientMembership, gradient_norms
from erasediff.auditing.attacks.weight_difference import WeightDifference, direction, rises
from erasediff.data.images import build
from erasediff.errors import BadInput
from erasediff.families import samples
from erasediff.families.tiny import TINY
from erasediff.families.unet2d import fresh
from erasediff.randomness import generator
from tests.auditing._scene import MANY_HELD_OUT, scene
from tests.auditing.test_membership import MEMBERS, OTHERS, auc, overfitted, untrained
from tests.conftest import make_squares


def attentive():
    torch.manual_seed(0)
    model = fresh((1, 8, 8), list("0123"), block_out_channels=(8, 8), attention=True, num_train_timesteps=100)
    model.denoiser.eval()
    return model


MODELS = {**TINY, "attention": attentive}


def slow_gradients(model, images, labels, *, draws, seed, purpose):
    """Flat gradients [draws, N, P], one backward pass each."""
    steps, weights = model.noising.num_train_timesteps, list(model.denoiser.parameters())
    images, found = model.encode(images), []
    for draw in range(draws):
        t = torch.tensor([int((draw + 0.5) / draws * steps)])
        noise = torch.randn(images.shape[1:], generator=generator(seed, draw, purpose))[None]
        for image, label in zip(images, labels, strict=True):
            noisy = model.noising.noised(image[None], noise, t)
            own = label[None] if model.conditions.num_classes else None
            said = model.ask(model.denoiser, noisy.x_t, t, own)
            loss = (said - model.noising.target(noisy)).square().mean()
            grads = torch.autograd.grad(loss, weights, allow_unused=True)
            found.append(
                torch.cat(
                    [(torch.zeros_like(w) if g is None else g).flatten() for g, w in zip(grads, weights, strict=True)]
                )
            )
    return torch.stack(found).reshape(draws, len(images), -1).double()


@pytest.mark.parametrize("family", MODELS)
def test_gradient_norms_are_those_of_single_backward_passes(family, monkeypatch):
    model, data = MODELS[family](), make_squares()
    images, labels = data.floats(torch.arange(5)), data.labels[:5]
    slow = slow_gradients(model, images, labels, draws=2, seed=3, purpose="membership/gradients")
    expected = slow.norm(dim=2).mean(0)
    found = gradient_norms(model, images, labels, draws=2, seed=3)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    monkeypatch.setattr(samples, "GRADIENTS", 1)
    np.testing.assert_allclose(
        gradient_norms(model, images.flip(0), labels.flip(0), draws=2, seed=3)[::-1], found, 1e-4
    )


@pytest.mark.parametrize("family", MODELS)
def test_the_rise_is_the_inner_product_of_gradient_and_update(family, monkeypatch):
    model, data = MODELS[family](), make_squares()
    images, labels = data.floats(torch.arange(5)), data.labels[:5]
    moved = copy.deepcopy(model.denoiser)
    with torch.no_grad():
        for i, p in enumerate(moved.parameters()):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.01)
    update = torch.cat(
        [(b - a).flatten() for a, b in zip(model.denoiser.parameters(), moved.parameters(), strict=True)]
    )
    update = update.detach().double()
    slow = slow_gradients(model, images, labels, draws=2, seed=3, purpose="membership/update")
    expected = (slow @ update / update.norm()).sum(0)
    towards = direction(model.denoiser, moved)
    found = rises(model, towards, images, labels, draws=2, seed=3)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(weight_difference, "BATCH", 2)
    np.testing.assert_allclose(
        rises(model, towards, images.flip(0), labels.flip(0), draws=2, seed=3)[::-1], found, 1e-6
    )


def test_the_longer_way_in_the_same_direction_scores_the_same_and_no_way_scores_nothing():
    before, after = TINY["unet2d"](seed=0).denoiser, TINY["unet2d"](seed=1).denoiser
    far = copy.deepcopy(after)
    with torch.no_grad():
        for p, q in zip(far.parameters(), before.parameters(), strict=True):
            p.add_(p - q)
    near, further = direction(before, after), direction(before, far)
    assert sum(float(d.square().sum()) for d in near.values()) == pytest.approx(1)
    assert all(torch.allclose(near[n], further[n], atol=1e-6) for n in near)
    assert all(float(d.abs().max()) == 0 for d in direction(before, before).values())


def test_gradients_of_an_overfitted_model_tell_and_those_of_an_untrained_one_do_not():
    data = make_squares()

    def told(model):
        norms = (gradient_norms(model, data.floats(rows), None, draws=4, seed=0) for rows in (MEMBERS, OTHERS))
        return auc(*(-n for n in norms))

    assert told(overfitted()) > 0.65
    assert 0.3 < told(untrained()) < 0.7


def ascended(model, images, labels, repeats=200):
    """A copy of ``model`` one step up the loss of ``images``, at times and noises of its own."""
    pupil = copy.deepcopy(model)
    pupil.denoiser.requires_grad_(True)
    many = images.repeat(repeats, 1, 1, 1)
    source = torch.Generator().manual_seed(7)
    t = torch.randint(0, pupil.noising.num_train_timesteps, (len(many),), generator=source)
    noisy = pupil.noising.noised(many, torch.randn(many.shape, generator=source), t)
    own = pupil.conditions.own(None if labels is None else labels.repeat(repeats))
    said = pupil.ask(pupil.denoiser, noisy.x_t, t, own)
    (said - pupil.noising.target(noisy)).square().mean().backward()
    with torch.no_grad():
        for p in pupil.denoiser.parameters():
            p.add_(0.01 * p.grad)
    return pupil


def test_a_step_up_the_loss_of_one_image_gives_it_away():
    base, found = overfitted(), []
    for i in range(4):
        given = scene("unet2d-unconditional", forget=torch.tensor([i]), retain=torch.arange(5, 20))
        moved = ascended(base, given.question.data.floats(torch.tensor([i])), None)
        there, back = replace(given, base=base, model=moved), replace(given, base=moved, model=base)
        measured = WeightDifference().run(there)[0].measurement
        assert measured.name == "mia_auc_weight_difference"
        found.append((measured.value, WeightDifference().run(back)[0].measurement.value))
    up, down = np.mean(found, axis=0)
    assert up > 0.9
    assert down < 0.1


class Table(nn.Module):
    """A denoiser with weights of its own for each image: what it says is the row of the label."""

    def __init__(self, rows):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.full((rows, 64), 0.1), freeze=False)

    def forward(self, x_t, t, condition, return_dict=True):
        return (self.table(condition).reshape(x_t.shape),)


def test_where_images_share_no_weights_the_update_names_the_forget_set():
    data, each = make_squares(), torch.arange(80)
    base = replace(TINY["unet2d"](classes=80), denoiser=Table(81))
    moved = ascended(base, data.floats(MEMBERS), MEMBERS)
    found = rises(base, direction(base.denoiser, moved.denoiser), data.floats(each), each, draws=32, seed=0)
    assert (found[12:] == 0).all()
    assert (found[:12] > 0).all()


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize(
    ("attack", "kind"),
    [(GradientMembership(draws=2), "gradient_norm"), (WeightDifference(draws=2), "weight_difference")],
)
def test_the_attacks_measure_and_leave_both_models_alone(attack, kind, family):
    ticks = []
    given = scene(family, base=True, tick=ticks.append, held_out=MANY_HELD_OUT)
    models = (given.model.denoiser, given.base.denoiser)
    before = [{n: v.clone() for n, v in m.state_dict().items()} for m in models]
    assert attack.refusal(given) is None
    found = attack.run(given)
    assert [f.measurement.name for f in found] == [f"mia_auc_{kind}", f"mia_tpr_at_1fpr_{kind}"]
    measured, evidence = found[0].measurement, found[0].evidence
    assert found[1].evidence is None
    assert (measured.n, measured.detail["draws"]) == (len(given.question.distinct), 2)
    assert (evidence.attack, evidence.role, evidence.statistic) == (f"{attack.name} ({kind})", "trace", "auc")
    members, others = evidence.rows
    assert measured.value == pytest.approx(roc_auc_score([1] * len(members) + [0] * len(others), members + others))
    assert np.isfinite(members + others).all()
    assert sum(ticks) == attack.cost(given) > 0
    for model, kept in zip(models, before, strict=True):
        assert all(torch.equal(kept[n], v) for n, v in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())


def test_refusals_say_why():
    assert "no base model" in WeightDifference().refusal(scene())
    there = scene(base=True, held_out=MANY_HELD_OUT)
    wide = replace(there, base=fresh((1, 8, 8), list("0123"), block_out_channels=(16, 16)))
    assert "other shapes" in WeightDifference().refusal(wide)
    data = make_squares()
    bare = build("bare", data.images.numpy()[:, 0], data.labels.numpy(), held_out=np.zeros(80, dtype=bool))
    for attack in (WeightDifference(), GradientMembership()):
        assert "held-out" in attack.refusal(scene(data=bare, base=True))
    with pytest.raises(BadInput, match="none was given"):
        WeightDifference().run(scene())


@pytest.mark.parametrize("kind", [GradientMembership, WeightDifference])
@pytest.mark.parametrize("budget", [{"images": 5}, {"draws": 0}])
def test_budgets_that_ask_for_nothing_are_refused(kind, budget):
    with pytest.raises(BadInput, match="at least 6 images and one draw"):
        kind(**budget)
