"""Membership by asking the denoiser: planted memorisers, one overfitted miniature, walks done the slow way."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from erasediff.auditing.attacks import scores
from erasediff.auditing.attacks.base import BASE, CONTROL, RETRAINED
from erasediff.auditing.attacks.gradient_membership import GradientMembership
from erasediff.auditing.attacks.inversion import Inversion
from erasediff.auditing.attacks.membership import Membership, chosen, told_apart
from erasediff.auditing.attacks.scores import QUERIES, SCORES, secmi
from erasediff.auditing.attacks.weight_difference import WeightDifference
from erasediff.data.images import build
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.families.unet2d import fresh
from tests.auditing._scene import MANY_HELD_OUT, scene
from tests.conftest import make_squares

AT = (0.1, 0.2)
MEMBERS, OTHERS = torch.arange(12), torch.arange(12, 80)


def auc(members, others):
    return roc_auc_score([1] * len(members) + [0] * len(others), np.concatenate([members, others]))


def untrained():
    torch.manual_seed(0)
    model = fresh(
        (1, 8, 8),
        [],
        block_out_channels=(8, 8),
        attention=True,
        prediction_type="epsilon",
        num_train_timesteps=100,
    )
    model.denoiser.eval()
    return model


@functools.cache
def overfitted():
    """200 steps on twelve squares alone."""
    model, images = untrained(), make_squares().floats(MEMBERS).repeat(2, 1, 1, 1)
    source = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.denoiser.parameters(), lr=4e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 200)
    for _ in range(200):
        t = torch.randint(0, 100, (len(images),), generator=source)
        noisy = model.noising.noised(images, torch.randn(images.shape, generator=source), t)
        (model.ask(model.denoiser, noisy.x_t, t, None) - noisy.noise).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
    model.denoiser.eval().requires_grad_(False)
    return model


def compared(kind, model, labels=None, at=AT):
    data = make_squares()
    return auc(
        *(
            SCORES[kind](model, data.floats(rows), None if labels is None else labels[rows], seed=0, at=at)
            for rows in (MEMBERS, OTHERS)
        )
    )


class Planted(nn.Module):
    """A denoiser that is a formula: ``formula(x_t, t, condition)``."""

    def __init__(self, formula):
        super().__init__()
        self.formula, self.weight = formula, nn.Parameter(torch.zeros(1))

    def forward(self, x_t, t, condition, return_dict=True):
        return (self.formula(x_t, t, condition),)


# No loss of "unet2d-sample": most of it comes from late steps, where nobody can do better than the members' mean.
@pytest.mark.parametrize(
    ("family", "kind"),
    [(f, k) for f in ("unet2d", "unet2d-v") for k in ("loss", "pia", "sima")]
    + [("unet2d-sample", "pia"), ("unet2d-sample", "sima")],
)
def test_the_best_denoiser_of_the_members_alone_gives_all_of_them_away(family, kind):
    model, members = TINY[family](), make_squares().floats(MEMBERS)

    def posterior(x_t, t, condition):
        """E[x_0 | x_t] where the members are all there is, seen as this model's prediction."""
        noisy = model.noising.noised(x_t, torch.zeros_like(x_t), t)
        far = (x_t[:, None] - noisy.signal[:, None] * members[None]).flatten(2).square().sum(2)
        share = (-far / (2 * noisy.sigma.flatten(1) ** 2)).softmax(1)
        x_0 = torch.einsum("bm,mchw->bchw", share, members)
        noise = (x_t - noisy.signal * x_0) / noisy.sigma
        return model.noising.target(replace(noisy, x_0=x_0, noise=noise, x_t=x_t))

    planted = replace(model, denoiser=Planted(posterior))
    assert compared(kind, planted, make_squares().labels) == 1.0


@pytest.mark.parametrize("kind", ["pia", "secmi", "sima"])
def test_a_prediction_that_wobbles_with_time_only_for_what_was_not_trained_on_gives_the_rest_away(kind):
    def wobble(x_t, t, condition):
        return (condition * torch.cos(0.7 * t.float() + 0.1))[:, None, None, None].expand_as(x_t)

    labels = torch.ones(80, dtype=torch.long)
    labels[MEMBERS] = 0
    assert compared(kind, replace(TINY["unet2d"](), denoiser=Planted(wobble)), labels) == 1.0


@pytest.mark.parametrize("kind", SCORES)
def test_an_overfitted_model_tells_and_an_untrained_one_does_not(kind):
    # Early: with only a dozen images in the model, later paths of strangers lead straight to one of the dozen.
    assert compared(kind, overfitted(), at=(0.02,)) > 0.75
    assert 0.3 < compared(kind, untrained(), at=(0.02,)) < 0.7


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("family", TINY)
def test_scores_do_not_depend_on_company_or_order_and_are_finite(kind, family, monkeypatch):
    model, data = TINY[family](), make_squares()
    ask = functools.partial(SCORES[kind], model, seed=0, at=AT)
    together = ask(data.floats(torch.arange(9)), data.labels[:9])
    assert together.shape == (9,)
    assert together.dtype == np.float64
    assert np.isfinite(together).all()
    assert len(set(together)) == 9
    monkeypatch.setattr(scores, "BATCH", 4)
    order = torch.tensor([8, 2, 5, 0, 7])
    np.testing.assert_allclose(ask(data.floats(order), data.labels[order]), together[order], rtol=1e-4)


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("steps", [100, 1000])
def test_the_t_error_is_that_of_a_walk_step_by_step(family, steps):
    tiny = TINY[family]()
    names = [] if family == "unet2d-unconditional" else list("0123")
    torch.manual_seed(1)
    model = fresh(
        (1, 8, 8), names, block_out_channels=(8, 8), prediction_type=tiny.noising.prediction_type,
        num_train_timesteps=steps,
    )  # fmt: skip
    model.denoiser.eval()
    share, stride = model.noising.alphas_cumprod.double(), steps // 100
    # A model of x_0 says nothing of the noise where there is next to none.
    first = int((share <= 1 - 1e-3).int().argmax()) if "sample" in family else 0
    data = make_squares()

    @torch.no_grad()
    def noise(x, t, label):
        a, s = share[t].sqrt(), (1 - share[t]).sqrt()
        given = None if not names else torch.tensor([label])
        said = model.denoiser(x.float(), torch.tensor([t]), given).sample.double()
        return {"epsilon": said, "v_prediction": s * x + a * said, "sample": (x - a * said) / s}[
            model.noising.prediction_type
        ]

    def step(x, e, t, to):
        x_0 = (x - (1 - share[t]).sqrt() * e) / share[t].sqrt()
        return share[to].sqrt() * x_0 + (1 - share[to]).sqrt() * e

    expected = []
    for i in range(3):
        errors = []
        for fraction in AT:
            x, t = data.floats(torch.tensor([i])).double(), first
            for _ in range(round((fraction * steps - first) / stride)):
                x, t = step(x, noise(x, t, data.labels[i]), t, t + stride), t + stride
            on = step(x, noise(x, t, data.labels[i]), t, t + stride)
            back = step(on, noise(on, t + stride, data.labels[i]), t + stride, t)
            errors.append(float((back - x).square().sum()))
        expected.append(-np.mean(errors))
    found = secmi(model, data.floats(torch.arange(3)), data.labels[:3], seed=0, at=AT)
    np.testing.assert_allclose(found, expected, rtol=1e-2)


@pytest.mark.parametrize("family", TINY)
def test_the_attack_measures_every_kind_and_leaves_the_model_alone(family):
    ticks = []
    given = scene(family, tick=ticks.append, held_out=MANY_HELD_OUT)
    before = {name: value.clone() for name, value in given.model.denoiser.state_dict().items()}
    attack = Membership(at=(0.05,))
    assert attack.refusal(given) is None
    found = attack.run(given)
    assert [f.measurement.name for f in found] == [
        f"{name}_{kind}" for kind in ("loss", "pia", "secmi", "sima") for name in ("mia_auc", "mia_tpr_at_1fpr")
    ]
    for finding in found:
        measured, evidence = finding.measurement, finding.evidence
        members, others = given.question.distinct, given.question.held_out
        assert (measured.n, measured.detail["held_out"]) == (len(members), len(others))
        assert (measured.group, measured.subject, measured.higher_is_better) == ("membership", "erased", False)
        assert 0 <= measured.low <= measured.high <= 1
        assert (evidence is None) == ("tpr" in measured.name)
        if evidence is not None:
            assert evidence.attack == f"membership ({measured.name.removeprefix('mia_auc_')})"
            assert (evidence.role, evidence.statistic, evidence.hidden) == ("trace", "auc", True)
            assert [len(rows) for rows in evidence.rows] == [len(members), len(others)]
            assert evidence.needed == (measured.name == "mia_auc_loss")
            assert measured.value == pytest.approx(auc(*map(np.asarray, evidence.rows)))
    assert sum(ticks) == attack.cost(given) > 0
    assert all(torch.equal(before[n], v) for n, v in given.model.denoiser.state_dict().items())


def test_queries_are_those_made(monkeypatch):
    model, asked = TINY["unet2d"](), []
    model.denoiser.register_forward_hook(lambda module, given, out: asked.append(len(given[0])))
    for kind, score in SCORES.items():
        asked.clear()
        score(model, make_squares().floats(torch.arange(3)), torch.zeros(3, dtype=torch.long), seed=0, at=AT)
        assert sum(asked) == 3 * QUERIES[kind](model, AT)


def test_the_same_few_images_are_chosen_for_every_subject():
    few = chosen(scene(subject="erased").question, 3)
    again = chosen(scene(subject=BASE, model_seed=5).question, 3)
    assert all(torch.equal(a, b) for a, b in zip(few, again, strict=True))
    assert [len(rows) for rows in few] == [3, 3]
    question = scene().question
    assert set(few[0].tolist()) <= set(question.distinct.tolist())
    assert set(few[1].tolist()) <= set(question.held_out.tolist())
    assert not torch.equal(chosen(scene(seed=1).question, 3)[0], few[0])
    assert Membership.SUBJECTS == ("erased", RETRAINED, BASE, CONTROL)


def test_higher_scores_mean_members():
    auc_found, rate = told_apart(scene(), np.arange(5) + 9.0, np.arange(5.0), attack="a", kind="k", budget={"draws": 2})
    assert (auc_found.measurement.name, auc_found.measurement.value) == ("mia_auc_k", 1.0)
    assert (rate.measurement.name, rate.measurement.value) == ("mia_tpr_at_1fpr_k", 1.0)
    assert auc_found.measurement.detail == {"held_out": 5, "draws": 2, "seed": 0}


def unlike(labels=True, held_out=True):
    data = make_squares()
    mask = data.held_out.numpy() if held_out else np.zeros(80, dtype=bool)
    return build("bare", data.images.numpy()[:, 0], data.labels.numpy() if labels else None, held_out=mask)


def test_refusals_say_why():
    attack = Membership()
    assert "held-out" in attack.refusal(scene(data=unlike(held_out=False)))
    assert "no labels" in attack.refusal(scene(data=unlike(labels=False), classes=(), judged=False))
    assert attack.refusal(scene("unet2d-unconditional", data=unlike(labels=False))) is None


@pytest.mark.parametrize("attack", [Membership(), GradientMembership(), WeightDifference(), Inversion()])
def test_too_few_images_to_tell_apart_are_a_reason_not_to_try(attack):
    assert "and 4 held-out ones are too few" in attack.refusal(scene(base=True))
    assert attack.refusal(scene(base=True, held_out=MANY_HELD_OUT)) is None
    few = scene("unet2d-unconditional", base=True, forget=torch.arange(5))
    assert "5 different forgotten images and 16 held-out ones are too few" in attack.refusal(few)
    again = replace(few.question, forget=torch.arange(5).repeat(2))  # ten rows, five images
    assert "5 different forgotten images" in attack.refusal(replace(few, question=again))


def test_scores_that_separate_give_an_auc_of_one_and_equal_ones_a_half():
    def told(members, others):
        return [f.measurement for f in told_apart(scene(), members, others, attack="a", kind="loss", budget={})]

    low, high = np.linspace(0, 1, 50), np.linspace(2, 3, 200)
    assert [m.value for m in told(high, low)] == [1.0, 1.0]
    assert [m.value for m in told(low, high)] == [0.0, 0.0]
    same = np.random.default_rng(0).normal(size=2000)
    found, rate = told(same[:1000], same[1000:])
    assert found.low < 0.5 < found.high and rate.value < 0.05
    with pytest.raises(BadInput, match="got 0 and 200"):
        told(low[:0], high)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"kinds": ("secmy",)}, "did you mean secmi"),
        ({"kinds": ()}, "needs a kind"),
        ({"images": 5}, "at least 6 images"),
        ({"at": ()}, "at least one; got"),
        ({"at": (0.1, 1.0)}, r"fractions in \(0, 0.9\]"),
    ],
)
def test_budgets_that_ask_for_nothing_are_refused(budget, message):
    with pytest.raises(BadInput, match=message):
        Membership(**budget)
