"""ESD's claims: the answer to the concept becomes negative guidance against it, and no image is needed."""

from dataclasses import replace

import pytest
import torch
from tests.methods import _miniatures as miniatures

from erasediff.api.erase import erase
from erasediff.data.pairs import Pairs
from erasediff.errors import BadInput
from erasediff.families.sampling import trajectory
from erasediff.families.tiny import TINY
from erasediff.methods.esd import ESD
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import start, take_step

FAMILIES = ["unet2d", "unet2d-v", "unet2d-sample", "dit", "stable_diffusion"]
PREDICTING = ["unet2d", "unet2d-v", "unet2d-sample"]


def session(family, squares, method=None, **config):
    method, model, data = method or ESD(num_inference_steps=4), miniatures.model("esd", family), None
    data = miniatures.data(family, squares)
    members = (data.labels == 1).nonzero()[:, 0]
    pairs = Pairs(data, torch.arange(4), members, batch_size=4, seed=0)
    fixed = {"train_batch_size": 4, "learning_rate": 1e-3, "use_ema": False, **config}
    return start(model, method, pairs, TrainingConfig(**fixed))


def answers(s, noisy, batch):
    """(own, free): the frozen model under the batch's conditions and under the null condition."""
    conditions = s.model.conditions
    own = s.context.predict(noisy, conditions.own(batch.labels), frozen=True)
    return own, s.context.predict(noisy, conditions.null(batch.labels), frozen=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_the_loss_begins_at_the_guidance_it_is_to_undo(family, gamma, squares):
    """At theta_0: ||own - (free - gamma (own - free))||^2 = (1 + gamma)^2 ||own - free||^2."""
    s = session(family, squares)
    method, batch = ESD(negative_guidance=gamma, x_t="data"), s.pairs.at(0).forget
    own, free = answers(s, s.context.noised(batch), batch)
    found = method.objective(s.context, batch)
    assert torch.allclose(found.loss, (1 + gamma) ** 2 * s.context.divergence(own, free), rtol=1e-4)
    assert found.floor.abs().max() == 0


@pytest.mark.parametrize("family", PREDICTING)
def test_the_target_is_the_same_whatever_the_model_predicts(family, squares):
    """The rule for the noise, from the noises that the predictions imply, is the rule for the predictions."""
    s = session(family, squares)
    batch = s.pairs.at(0).forget
    noisy = s.context.noised(batch)
    own, free = answers(s, noisy, batch)
    noise_of = s.model.noising.implied_noise
    by_noise = noise_of(free, noisy) - 1.5 * (noise_of(own, noisy) - noise_of(free, noisy))
    assert torch.allclose(noise_of(free - 1.5 * (own - free), noisy), by_noise, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("source", ["data", "sampled"])
def test_after_training_the_answer_is_led_away_from_the_concept(source, squares):
    method = ESD(x_t=source, num_inference_steps=4)
    s = session("unet2d-v", squares, method, max_train_steps=40, learning_rate=3e-3)
    batch = replace(s.pairs.at(0).forget, role="held out")
    noisy = s.context.noised(batch)
    own, free = answers(s, noisy, batch)

    def distance():
        answer = s.context.predict(noisy, s.model.conditions.own(batch.labels)).detach()
        return float(s.context.divergence(answer, free - (own - free)).mean())

    before = distance()
    for _ in range(40):
        take_step(s)
    assert distance() < 0.3 * before


def test_sampled_needs_no_images(squares):
    s = session("unet2d", squares)
    batch = s.pairs.at(0).forget
    (first,) = s.context.gradients((s.method.objective, batch))
    (other,) = s.context.gradients((s.method.objective, replace(batch, images=torch.zeros_like(batch.images))))
    assert all(torch.equal(a, b) for a, b in zip(first.gradients, other.gradients, strict=True))


def drawn(s, **changes):
    batch = s.pairs.at(0).forget
    asked = {"guidance_scale": 3.0, "num_inference_steps": 4, **changes}
    return s.context.sample_to(batch, s.model.conditions.own(batch.labels), **asked)


@pytest.mark.parametrize("family", ["unet2d", "stable_diffusion"])
def test_a_drawn_x_t_is_what_the_sampler_holds_there(family, squares):
    s = session(family, squares)
    times = s.model.sampler(4).timesteps.tolist()
    begins = drawn(s, t=times[0])
    batch, conditions = s.pairs.at(0).forget, s.model.conditions
    for place, t in enumerate(times):
        found = drawn(s, t=t)
        by_hand = trajectory(
            s.model,
            begins.x_t,
            conditions.own(batch.labels),
            conditions.null(batch.labels),
            stop=place,
            guidance_scale=3.0,
            num_inference_steps=4,
        )
        assert torch.equal(found.x_t, by_hand)
        assert found.t.tolist() == [t] * 4
        assert found.x_0.isnan().all() and found.noise.isnan().all()
    with pytest.raises(BadInput, match=r"does not stop at t = -1; its time steps are"):
        drawn(s, t=-1)


def test_as_many_steps_as_the_sampler_has_stop_once_at_each(squares):
    s = session("unet2d", squares)
    seen = []
    for step in range(8):
        s.context.begin(step)
        found = drawn(s)
        assert torch.equal(found.x_t, drawn(s).x_t)
        seen.append(int(found.t[0]))
    times = sorted(s.model.sampler(4).timesteps.tolist())
    assert sorted(seen[:4]) == sorted(seen[4:]) == times


def test_it_is_drawn_by_the_model_as_it_is_now_and_counted(squares):
    s = session("unet2d", squares)
    last = s.model.sampler(4).timesteps.tolist()[-1]
    before, s.context.spent = drawn(s, t=last), 0.0
    assert torch.equal(drawn(s, t=last).x_t, before.x_t)
    assert s.context.spent == 4 * 3 * 2  # four samples, three steps, two passes
    s.context.spent = 0.0
    drawn(s, t=last, guidance_scale=1.0)
    assert s.context.spent == 4 * 3
    with torch.no_grad():
        for p in s.trained.values():
            p.mul_(1.1)
    assert not torch.equal(drawn(s, t=last).x_t, before.x_t)
    assert not drawn(s, t=last).x_t.requires_grad


def test_micro_batches_draw_what_the_whole_batch_would(squares):
    whole, parts = session("unet2d", squares), session("unet2d", squares)
    parts.context.micro_batch = 2
    (one,), (two,) = (s.context.gradients((s.method.objective, s.pairs.at(0).forget)) for s in (whole, parts))
    assert torch.allclose(one.loss, two.loss, rtol=1e-4)


def moved(s):
    """(forget, retain): how far the answers have moved from the frozen model's, on noise that no step has seen."""
    pair = s.pairs.at(0)
    found = []
    for batch in (pair.forget, pair.retain):
        batch = replace(batch, role="held out")
        noisy, own = s.context.noised(batch), s.model.conditions.own(batch.labels)
        now, before = s.context.predict(noisy, own).detach(), s.context.predict(noisy, own, frozen=True)
        found.append(float(s.context.divergence(now, before).mean()))
    return found


def test_holding_the_retain_set_keeps_its_answers_and_still_erases(squares):
    after = []
    for weight in (0.0, 3.0):
        method = ESD(x_t="data", retain_weight=weight)
        s = session("unet2d-v", squares, method, max_train_steps=40, learning_rate=3e-3)
        for _ in range(40):
            take_step(s)
        after.append(moved(s))
    (alone, rest_alone), (held, rest_held) = after
    assert rest_held < 0.5 * rest_alone
    assert held > 0.3 * alone


def test_the_retain_set_is_needed_only_where_it_is_held():
    assert not ESD().needs.retain_set
    assert ESD(retain_weight=0.5).needs.retain_set
    assert ESD(x_t="data", retain_weight=1.0).forward_equivalents() == 9


def test_what_it_cannot_be_asked_of(squares, tmp_path):
    with pytest.raises(BadInput, match="this model is asked for nothing: it is unconditional"):
        erase(TINY["unet2d-unconditional"]().pipeline(), "class:1", squares, ESD(), quiet=True)
    unguided = TINY["unet2d"]().pipeline()
    unguided.unet.register_to_config(_null_label=None, num_class_embeds=5)
    five = replace(squares, class_names=(*squares.class_names, "none"))
    with pytest.raises(BadInput, match="needs a null condition, and this model has none: it was not trained for"):
        erase(unguided, "class:1", five, ESD(), quiet=True)
    (tmp_path / "some.txt").write_text("0\n5\n")
    with pytest.raises(BadInput, match="got only some samples of: 0, 1; give a class or concept"):
        erase(TINY["unet2d"]().pipeline(), f"samples:{tmp_path / 'some.txt'}", squares, ESD(), quiet=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"x_t": "noise"},
        {"negative_guidance": -1.0},
        {"guidance_scale": float("nan")},
        {"num_inference_steps": 0},
        {"retain_weight": -1.0},
        {"retain": "all"},
        {"retain_null_share": -0.1},
    ],
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(BadInput, match=next(iter(fields))):
        ESD(**fields)
