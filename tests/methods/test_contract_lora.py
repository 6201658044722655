"""What every method owes every family under a LoRA: the contract of test_contract.py on the adapters."""

from dataclasses import replace

import pytest
import torch
from tests.families import _tiny_text
from tests.methods.test_contract import CONFIG, TINY, quick, weights

from erasediff.api.erase import erase
from erasediff.data.images import build
from erasediff.data.pairs import Pairs
from erasediff.data.targets import Class, split
from erasediff.families import adopt, load
from erasediff.methods.base import decided
from erasediff.training.loop import snapshot, start, take_step

RANK = {"rank": 2, "lora_alpha": 4.0}
WORDS = "stable_diffusion"
# With and without the frozen model; with a mask; with the squares of single samples' gradients; with joint gradients.
EVERY = [(name, "unet2d") for name in ("erasediff", "salun", "selective_amnesia", "siss")]
EVERY += [(name, family) for name in ("erasediff", "neg_grad") for family in ("dit", "unet2d-unconditional", WORDS)]


def images(family, squares):
    if family != WORDS:
        return squares
    drawn = torch.randint(0, 256, (40, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return build("words", drawn.numpy(), (torch.arange(40) % 4).numpy(), class_names=["a cat", "a dog", "a hat", "sea"])


def built(family, data):
    return adopt(_tiny_text.stable_diffusion()).with_prompts(data.class_names) if family == WORDS else TINY[family]()


def session(name, family, squares, *, checkpoint=None, **changes):
    data = images(family, squares)
    model, divided = built(family, data), split([Class(1)], data)
    model.conditions = replace(model.conditions, excluded=divided.classes)
    pairs = Pairs(data, divided.retain, divided.forget, batch_size=4, seed=0)
    method = decided(quick(name), model.conditions)
    return start(model, method, pairs, replace(CONFIG, **RANK, **changes), checkpoint=checkpoint)


@pytest.mark.parametrize(("name", "family"), EVERY)
def test_gradients_are_finite_and_reach_every_adapter(name, family, squares):
    s = session(name, family, squares)
    with torch.no_grad():
        for path, weight in s.trained.items():
            if ".lora_B." in path:  # at zero, as it begins, A has no gradient
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    direction = s.method.direction(s.context, s.pairs.at(0), s.state)
    assert len(direction.gradients) == len(s.trained)
    for gradient, (path, weight) in zip(direction.gradients, s.trained.items(), strict=True):
        assert gradient.shape == weight.shape
        assert torch.isfinite(gradient).all(), path
        assert gradient.abs().sum() > 0, path


@pytest.mark.parametrize(("name", "family"), EVERY)
def test_direction_leaves_adapters_base_and_grad_alone(name, family, squares):
    s = session(name, family, squares)
    before, base = weights(s), {n: p.detach().clone() for n, p in s.model.denoiser.named_parameters()}
    s.method.direction(s.context, s.pairs.at(0), s.state)
    assert all(torch.equal(before[n], p) for n, p in s.trained.items())
    take_step(s)
    after = dict(s.model.denoiser.named_parameters())
    assert all(torch.equal(base[n], after[n]) for n in base.keys() - s.trained.keys())
    assert not all(torch.equal(before[n], p) for n, p in s.trained.items())
    assert all(p.grad is None for p in after.values())


@pytest.mark.parametrize(("name", "family"), EVERY)
def test_a_resumed_run_is_the_unbroken_run(name, family, squares):
    unbroken = session(name, family, squares)
    for _ in range(4):
        take_step(unbroken)
    broken = session(name, family, squares)
    for _ in range(2):
        take_step(broken)
    kept = snapshot(broken)
    assert kept.tensors["model"].keys() == kept.tensors["ema"].keys() == broken.trained.keys()
    resumed = session(name, family, squares, checkpoint=kept)
    for _ in range(2):
        take_step(resumed)
    assert all(torch.equal(p, resumed.trained[n]) for n, p in unbroken.trained.items())
    averages = zip(unbroken.average.tensors().values(), resumed.average.tensors().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in averages)


@pytest.mark.parametrize(("name", "family"), [("erasediff", f) for f in ("dit", "unet2d", WORDS)])
def test_what_is_saved_is_what_the_run_holds(name, family, squares, tmp_path):
    data = images(family, squares)
    built(family, data).save(tmp_path / "base")
    training = replace(CONFIG, **RANK)
    run = erase(
        tmp_path / "base", "class:1", data, quick(name), training=training, output_dir=tmp_path / "run", quiet=True
    )
    again, first = load(tmp_path / "run").denoiser.state_dict(), run.model.denoiser.state_dict()
    assert again.keys() == first.keys()
    assert all(torch.equal(again[k], first[k]) for k in again)
