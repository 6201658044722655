"""Concept Ablation's claim: the concept is answered as the frozen model answers the anchor, on images of the anchor."""

from dataclasses import replace

import pytest
import torch
from tests.methods import _miniatures as miniatures

from erasediff.api.erase import erase
from erasediff.data.images import as_floats
from erasediff.data.pairs import Pairs
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.methods.concept_ablation import ConceptAblation
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import start, take_step

QUICK = {"anchor_samples": 8, "num_inference_steps": 2}


def session(squares, method, family="unet2d-v", **config):
    model, data = miniatures.model("concept_ablation", family), miniatures.data(family, squares)
    members, kept = (data.labels == 1).nonzero()[:, 0], (data.labels != 1).nonzero()[:, 0]
    pairs = Pairs(data, kept, members, batch_size=4, seed=0)
    fixed = {"train_batch_size": 4, "learning_rate": 3e-3, "use_ema": False, **config}
    return start(model, method, pairs, TrainingConfig(**fixed))


@pytest.mark.parametrize("family", ["unet2d", "unet2d-v", "dit", "stable_diffusion"])
def test_the_loss_begins_at_the_distance_of_concept_and_anchor(family, squares):
    s = session(squares, ConceptAblation(images="forget", retain_weight=0.0), family)
    batch, conditions = s.pairs.at(0).forget, s.model.conditions
    noisy = s.context.noised(batch)
    own, anchor = (
        s.context.predict(noisy, condition, frozen=True)
        for condition in (conditions.own(batch.labels), conditions.anchored(batch.labels))
    )
    found = s.method.direction(s.context, s.pairs.at(0), s.state)
    assert torch.allclose(found.log["forget_loss"], s.context.divergence(own, anchor).mean(), rtol=1e-4)


@pytest.mark.parametrize(("retain_weight", "left"), [(0.0, 0.3), (0.1, 0.5)])
def test_after_training_the_concept_is_answered_as_the_anchor_was(retain_weight, left, squares):
    method = ConceptAblation(retain_weight=retain_weight, **QUICK)
    s = session(squares, method, max_train_steps=40)
    conditions = s.model.conditions
    images = as_floats(s.state["anchor.images"])[:4]
    batch = replace(s.pairs.at(0).forget, images=images, role="held out")
    noisy = s.context.noised(batch)
    wanted = s.context.predict(noisy, conditions.anchored(batch.labels), frozen=True)

    def distance():
        answer = s.context.predict(noisy, conditions.own(batch.labels)).detach()
        return float(s.context.divergence(answer, wanted).mean())

    before = distance()
    for _ in range(40):
        take_step(s)
    assert distance() < left * before


def test_the_images_are_the_frozen_models_of_the_anchor_and_counted(squares):
    s = session(squares, ConceptAblation(**QUICK))
    assert s.context.spent == 8 * 2 * 2  # eight images, two steps, two passes
    labels = torch.full((8,), 2)
    drawn = s.context.generate(labels, 8, "anchor", num_inference_steps=2, guidance_scale=3.0)
    assert torch.equal(s.state["anchor.images"], ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    plain = s.context.generate(labels, 8, "anchor", num_inference_steps=2)
    assert not torch.equal(plain, drawn)


def test_with_images_of_the_anchor_the_forget_images_are_not_looked_at(squares):
    s = session(squares, ConceptAblation(**QUICK))
    pair = s.pairs.at(0)
    blank = replace(pair, forgotten=replace(pair.forget, images=torch.zeros_like(pair.forget.images)))
    first, other = (s.method.direction(s.context, p, s.state) for p in (pair, blank))
    assert all(torch.equal(a, b) for a, b in zip(first.gradients, other.gradients, strict=True))


def test_what_is_held_is_the_anchor_or_the_retain_set(squares):
    """The second term's gradient, alone: that of the denoising loss it names."""
    plain, held, data = (
        session(squares, ConceptAblation(**QUICK, **fields))
        for fields in ({"retain_weight": 0.0}, {"retain_weight": 2.0}, {"retain_weight": 2.0, "held": "data"})
    )
    logs = [s.method.direction(s.context, s.pairs.at(0), s.state).log for s in (plain, held, data)]
    assert "retain_loss" not in logs[0]
    assert logs[1]["retain_loss"] != logs[2]["retain_loss"]
    assert logs[0]["forget_loss"] == logs[1]["forget_loss"] == logs[2]["forget_loss"]
    assert not held.method.needs.retain_set
    assert data.method.needs.retain_set


@pytest.mark.parametrize("held", ["anchor", "data"])
def test_what_is_held_by_distillation_pulls_nothing_at_first(held, squares):
    """At theta_0 the model is the frozen one: the second term has neither loss nor gradient."""
    fields = {"held": held, "retain": "distill", "retain_weight": 5.0}
    alone, beside = (session(squares, ConceptAblation(**QUICK, **more)) for more in ({"retain_weight": 0.0}, fields))
    first, other = (s.method.direction(s.context, s.pairs.at(0), s.state) for s in (alone, beside))
    assert other.log["retain_loss"] < 1e-12
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first.gradients, other.gradients, strict=True))


def test_without_an_anchor_it_is_refused_and_with_a_class_it_runs(squares):
    method, plan = ConceptAblation(**QUICK), {"quiet": True, "dry_run": True}
    model = TINY["unet2d"]().pipeline()
    with pytest.raises(BadInput, match="there is none: give --anchor TEXT"):
        erase(model, "class:1", squares, method, **plan)
    with pytest.raises(BadInput, match="the anchor is the target itself"):
        erase(model, "class:1", squares, method, anchor="class:1", **plan)
    with pytest.raises(BadInput, match="there is no class '9'"):
        erase(model, "class:1", squares, method, anchor="class:9", **plan)
    run = erase(model, "class:1", squares, method, anchor="class:2", **plan)
    assert run.record["asked"] == {"anchor": "class:2"}
    assert run.model.conditions.anchor == 2
    default = erase(model, "class:1", squares, anchor="class:2", **plan)
    assert default.record["method"]["fields"]["forget_target"] == "anchor"


@pytest.mark.parametrize(
    "fields",
    [
        {"images": "none"},
        {"held": "none"},
        {"retain": "none"},
        {"retain_null_share": 1.5},
        {"anchor_samples": 0},
        {"num_inference_steps": 0},
        {"retain_weight": -1.0},
        {"guidance_scale": -1.0},
    ],
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(BadInput, match=next(iter(fields))):
        ConceptAblation(**fields)


def test_images_that_are_not_drawn_cannot_be_held():
    with pytest.raises(BadInput, match="held anchor holds the images of the anchor"):
        ConceptAblation(images="forget")
