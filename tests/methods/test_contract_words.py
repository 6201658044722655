"""What every method owes every family asked in words: the contract of test_contract.py, on a miniature of each."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from tests.families import _tiny_text as tiny
from tests.methods._miniatures import quick
from tests.methods.test_contract import plain_denoiser

from erasediff import families
from erasediff.api.erase import erase
from erasediff.data.pairs import Pairs
from erasediff.data.sources import build
from erasediff.data.targets import Class, split
from erasediff.methods import METHODS
from erasediff.methods.base import WeightEdit, decided
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import snapshot, start, take_step

MADE = {
    "stable_diffusion": tiny.stable_diffusion,
    "stable_diffusion_xl": tiny.stable_diffusion_xl,
    "stable_diffusion_3": tiny.stable_diffusion_3,
    "flux": tiny.flux,
    "pixart": tiny.pixart,
}
STEPPING = [name for name in METHODS if not isinstance(METHODS[name](), WeightEdit)]
CONFIG = TrainingConfig(max_train_steps=2, train_batch_size=4, learning_rate=1e-3, checkpointing_steps=0)
CLASSES = ("a cat", "a dog", "the sea", "a hat")
# In its last block no word is updated any more, so nobody hears what words ask there.
UNHEARD = {"stable_diffusion_3": "transformer_blocks.1.attn.add_q_proj"}


@cache
def data():
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    return build("words", images, np.arange(40) % 4, class_names=CLASSES)


@cache
def built(family):
    return families.adopt(MADE[family]()).with_prompts(CLASSES, anchor="a red hat")


def session(name, family, *, checkpoint=None):
    model, divided = copy.deepcopy(built(family)), split([Class("a dog")], data())
    model.conditions = replace(model.conditions, excluded=divided.classes)
    pairs = Pairs(data(), divided.retain, divided.forget, batch_size=4, seed=0)
    return start(model, decided(quick(name), model.conditions), pairs, CONFIG, checkpoint=checkpoint)


@pytest.mark.parametrize("family", MADE)
@pytest.mark.parametrize("name", STEPPING)
def test_a_direction_is_finite_whole_repeatable_and_costs_what_is_declared(name, family):
    s = session(name, family)
    before = {n: p.detach().clone() for n, p in s.trained.items()}
    s.context.spent = 0.0
    for step in range(2):  # a method that draws stops once at each of its two sampling steps
        s.context.begin(step)
        s.method.direction(s.context, s.pairs.at(step), s.state)
    assert s.context.spent / 2 / s.pairs.batch_size == s.method.forward_equivalents()
    s.context.begin(0)
    first = s.method.direction(s.context, s.pairs.at(0), s.state).gradients
    for gradient, (weight_name, weight) in zip(first, s.trained.items(), strict=True):
        assert gradient.shape == weight.shape
        assert torch.isfinite(gradient).all(), weight_name
        assert gradient.abs().sum() > 0 or UNHEARD.get(family, weight_name + ".") in weight_name, weight_name
    again = s.method.direction(s.context, s.pairs.at(0), s.state).gradients
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in s.trained.items())
    assert all(
        p.grad is None for part in (s.context.model.vae, s.context.model.text_encoder) for p in part.parameters()
    )


@pytest.mark.parametrize("family", MADE)
def test_a_resumed_run_is_the_unbroken_run(family):
    unbroken, broken = session("erasediff", family), session("erasediff", family)
    take_step(unbroken)
    take_step(unbroken)
    take_step(broken)
    resumed = session("erasediff", family, checkpoint=snapshot(broken))
    take_step(resumed)
    assert all(torch.equal(p, resumed.trained[n]) for n, p in unbroken.trained.items())


@pytest.mark.parametrize("family", MADE)
def test_what_is_erased_and_saved_predicts_the_same_in_plain_diffusers(family, tmp_path):
    options = {"training": CONFIG, "quiet": True, "anchor": "a hat"}
    run = erase(MADE[family](), "concept:dog", data(), quick("erasediff"), **options)
    run.save(tmp_path / "run")
    plain, x = plain_denoiser(tmp_path / "run" / "model"), torch.randn(2, 4, 8, 8)
    t, labels = torch.tensor([3, 60]), torch.tensor([0, 2])
    with torch.no_grad():
        said = run.model.ask(plain, x, t, labels)
        assert torch.equal(said, run.model.ask(run.model.denoiser, x, t, labels))
        again = families.load(tmp_path / "run").with_prompts(run.model.class_names)
        assert torch.equal(said, again.ask(again.denoiser, x, t, labels))
        assert not torch.equal(said, built(family).ask(built(family).denoiser, x, t, labels))
