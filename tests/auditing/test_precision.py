"""Audits that draw in half precision: what is drawn so, what never is, and that neither is taken for the other."""

import ast
import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import erasediff.auditing
from erasediff.auditing.attacks.asking import asked_for_target
from erasediff.auditing.attacks.class_embedding import ClassEmbedding
from erasediff.auditing.attacks.gradient_membership import GradientMembership
from erasediff.auditing.attacks.image_to_image import restore
from erasediff.auditing.attacks.inversion import Inversion
from erasediff.auditing.attacks.membership import Membership
from erasediff.auditing.attacks.relearning import Relearning
from erasediff.auditing.attacks.retain_training import RetainTraining
from erasediff.auditing.attacks.weight_difference import WeightDifference
from erasediff.auditing.cache import Cache
from erasediff.auditing.drawing import Subject
from erasediff.auditing.examine import Examination
from erasediff.auditing.generate import images
from erasediff.families.precision import AUTOCAST, FULL
from erasediff.families.sampling import sample
from erasediff.families.tiny import TINY
from tests.auditing._scene import MANY_HELD_OUT, SUITE, question, scene

HALF = [name for name in AUTOCAST if name != FULL]
CLOSE = 0.05  # mean difference of pixels in [-1, 1]; an image differs from another by about 0.5
BEFORE = "51365693066a29f5a6753a2c7ab207ccc228c00d14f5c4e6e0b181e39c00b366"


def drawn(model, mixed_precision, **changes):
    labels = None if not model.conditions.num_classes else torch.arange(6) % model.conditions.num_classes
    given = {"guidance_scale": 2.0, "num_inference_steps": 4, **changes}
    return images(model, labels, 6, seed=0, kind="k", mixed_precision=mixed_precision, **given)


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.parametrize("half", HALF)
def test_half_precision_is_on_and_near(family, half):
    model = TINY[family]()
    full, rounded = drawn(model, FULL), drawn(model, half)
    assert rounded.dtype == torch.float32 and torch.isfinite(rounded).all()
    assert not torch.equal(full, rounded)
    assert (full - rounded).abs().mean() < CLOSE
    assert torch.equal(rounded, drawn(model, half))


def test_the_denoiser_is_under_autocast_and_the_sampler_and_decoder_are_not(monkeypatch):
    model, seen = TINY["unet2d"](), {"denoiser": [], "around": []}
    ask, sampler, decode = model.ask, model.sampler, model.decode

    def told(place):
        seen[place].append(torch.is_autocast_enabled("cpu"))

    def stepping(count):
        made = sampler(count)
        step = made.step
        made.step = lambda prediction, t, x: (told("around"), step(prediction, t, x))[1]
        return made

    monkeypatch.setattr(model, "ask", lambda *given: (told("denoiser"), ask(*given))[1])
    monkeypatch.setattr(model, "sampler", stepping)
    monkeypatch.setattr(model, "decode", lambda x: (told("around"), decode(x))[1])
    drawn(model, "bf16")
    assert set(seen["denoiser"]) == {True} and set(seen["around"]) == {False}
    assert not torch.is_autocast_enabled("cpu")


def test_without_it_an_autocast_around_stays():
    model = TINY["unet2d"]()
    x_T, labels = torch.randn(2, *model.image_shape), torch.tensor([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        around = sample(model, x_T, labels, None, num_inference_steps=2)
    assert torch.equal(around, sample(model, x_T, labels, None, num_inference_steps=2, mixed_precision="bf16"))


def test_an_image_that_is_noised_and_denoised_is_drawn_alike():
    model, noise = TINY["unet2d"](), torch.randn(3, *TINY["unet2d"]().image_shape)
    given = {"strength": 0.8, "guidance_scale": 2.0, "num_inference_steps": 4}
    full, half = (
        restore(model, torch.zeros_like(noise), torch.arange(3), noise, mixed_precision=m, **given)[0]
        for m in (FULL, "bf16")
    )
    assert not torch.equal(full, half) and (full - half).abs().mean() < CLOSE


def test_whoever_draws_in_an_audit_says_in_which_precision():
    """``images`` has a default for callers outside; an attack that leaves it out would draw in fp32 unnoticed."""
    root, calls = Path(erasediff.auditing.__file__).parent, []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and "num_inference_steps" in {k.arg for k in node.keywords}:
                said = {k.arg for k in node.keywords}
                if "guidance_scale" in said and "name" not in said:
                    calls.append(path.name)
                    assert "mixed_precision" in said, f"{path.name}:{node.lineno}"
    assert len(calls) >= 9


def test_samples_of_a_subject_and_the_pace_follow_the_question():
    asked = scene()
    full = Subject("erased", asked.model, asked.question)
    half = Subject("erased", asked.model, replace(asked.question, mixed_precision="bf16"))
    assert full.fingerprint == half.fingerprint and half.seconds_an_image() > 0
    for kind, samples in full.samples.items():
        assert not torch.equal(samples, half.samples[kind])
        assert (samples - half.samples[kind]).abs().mean() < CLOSE


@pytest.mark.parametrize(
    "attack", [Membership(), GradientMembership(), WeightDifference(), Inversion(images=6, steps=3, iterations=2)]
)
def test_losses_gradients_and_inversion_stay_full_precision(attack):
    there = scene(base=True, held_out=MANY_HELD_OUT)
    half = replace(there, question=replace(there.question, mixed_precision="bf16"))
    assert attack.refusal(there) is None
    assert [f.to_dict() for f in attack.run(there)] == [f.to_dict() for f in attack.run(half)]


@pytest.mark.parametrize(
    "attack",
    [Relearning(images=(1,), steps=4, points=3, samples=6, repeats=1), RetainTraining(steps=4, points=3, samples=6)],
)
def test_copies_are_trained_in_half_precision(attack, monkeypatch):
    there, before = scene(), torch.nn.Module.__call__
    trained = []

    def called(self, *given, **options):
        if torch.is_grad_enabled() and type(self).__name__ == type(there.model.denoiser).__name__:
            trained.append(torch.is_autocast_enabled("cpu"))
        return before(self, *given, **options)

    monkeypatch.setattr(torch.nn.Module, "__call__", called)
    attack.run(there)
    assert set(trained) == {False}
    trained.clear()
    attack.run(replace(there, question=replace(there.question, mixed_precision="bf16")))
    assert set(trained) == {True}
    assert all(p.dtype == torch.float32 for p in there.model.denoiser.parameters())


def test_a_search_trains_in_full_precision_and_asks_in_half(monkeypatch):
    there, seen = scene(), {True: set(), False: set()}
    ask = there.model.ask

    def told(*given):
        seen[torch.is_grad_enabled()].add(torch.is_autocast_enabled("cpu"))
        return ask(*given)

    monkeypatch.setattr(there.model, "ask", told)
    attack = ClassEmbedding(starts=1, steps=2, batch_size=4, chosen_on=6, samples=6)
    attack.run(replace(there, question=replace(there.question, mixed_precision="bf16")))
    assert seen == {True: {False}, False: {True}}


def test_an_altered_denoiser_is_drawn_with_alike(monkeypatch):
    there, seen = scene(), set()
    ask = there.model.ask
    monkeypatch.setattr(there.model, "ask", lambda *g: (seen.add(torch.is_autocast_enabled("cpu")), ask(*g))[1])
    half = replace(there, question=replace(there.question, mixed_precision="bf16"))
    altered = copy.deepcopy(there.model.denoiser)
    asked_for_target(half, there.model, 6, seed=0, kind="altered", denoiser=altered)
    assert seen == {True}


def test_answers_are_told_apart_and_those_from_before_are_still_good():
    there = scene()
    keys = set()
    for name in AUTOCAST:
        asked = replace(there.question, mixed_precision=name)
        plan = Examination.plan({"erased": there.model}, replace(asked, suite=SUITE), Cache(None))
        keys.add(tuple(u.key for u in plan.units))
    assert len(keys) == len(AUTOCAST) and len({k for ks in keys for k in ks}) == sum(map(len, keys))
    # The hash of this question by the version that had no choice of precision: caches are not thrown away.
    assert question(judged=False).fingerprint == BEFORE
