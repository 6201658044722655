"""What every method owes every family, on miniatures built in memory."""

import json
from dataclasses import asdict, replace

import diffusers
import pytest
import torch
from tests.methods import _miniatures as miniatures
from tests.methods._miniatures import VARIANTS, is_edit, pairs, quick

from erasediff import families
from erasediff.api.erase import erase, method_named
from erasediff.data.pairs import Pairs
from erasediff.data.targets import Class, split
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.methods import METHODS
from erasediff.methods.base import decided
from erasediff.solver.rules import RULES
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import snapshot, start, take_step

CONFIG = TrainingConfig(max_train_steps=4, train_batch_size=4, learning_rate=1e-3, checkpointing_steps=0)


EVERY = pairs(METHODS, sorted(TINY))
# Settings that make another method of it, where they are at home and on one model that is asked by class.
EVERY += pairs(VARIANTS, ["unet2d"])
CASES = miniatures.spread(EVERY, "unet2d", ("erasediff", "neg_grad"))
REFUSED = miniatures.refused([*METHODS, *VARIANTS], sorted(TINY))


def session(name, family, squares, *, checkpoint=None, **changes):
    model, data = miniatures.model(name, family), miniatures.data(family, squares)
    divided = split([Class(1)], data)
    pairs = Pairs(data, divided.retain, divided.forget, batch_size=4, seed=0)
    method = decided(quick(name), model.conditions)
    return start(model, method, pairs, replace(CONFIG, **changes), checkpoint=checkpoint)


def weights(s):
    return {n: p.detach().clone() for n, p in s.trained.items()}


@pytest.mark.parametrize(("name", "family"), CASES)
def test_gradients_are_finite_and_reach_every_weight(name, family, squares):
    s = session(name, family, squares)
    direction = s.method.direction(s.context, s.pairs.at(0), s.state)
    assert len(direction.gradients) == len(s.trained)
    for gradient, (weight_name, weight) in zip(direction.gradients, s.trained.items(), strict=True):
        assert gradient.shape == weight.shape
        assert torch.isfinite(gradient).all(), weight_name
        # A bias before a normalisation has no gradient in exact arithmetic; all other weights have one.
        assert gradient.abs().sum() > 0, weight_name


@pytest.mark.parametrize(("name", "family"), CASES)
def test_direction_leaves_the_weights_and_grad_alone(name, family, squares):
    s = session(name, family, squares)
    before = weights(s)
    s.method.direction(s.context, s.pairs.at(0), s.state)
    assert all(torch.equal(before[n], p) for n, p in s.trained.items())
    assert all(p.grad is None for p in s.trained.values())


@pytest.mark.parametrize(("name", "family"), CASES)
def test_same_seed_same_bits_and_another_seed_others(name, family, squares):
    def after(seed):
        s = session(name, family, squares, seed=seed)
        for _ in range(2):
            take_step(s)
        return weights(s)

    first, second, other = after(0), after(0), after(1)
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)


@pytest.mark.parametrize(("name", "family"), CASES)
def test_a_resumed_run_is_the_unbroken_run(name, family, squares):
    unbroken = session(name, family, squares)
    for _ in range(4):
        take_step(unbroken)
    broken = session(name, family, squares)
    for _ in range(2):
        take_step(broken)
    resumed = session(name, family, squares, checkpoint=snapshot(broken))
    for _ in range(2):
        take_step(resumed)
    assert resumed.step == 4
    assert all(torch.equal(p, resumed.trained[n]) for n, p in unbroken.trained.items())
    averages = zip(unbroken.average.tensors().values(), resumed.average.tensors().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in averages)


@pytest.mark.parametrize(("name", "family"), CASES)
def test_what_is_saved_predicts_the_same_in_plain_diffusers(name, family, squares, tmp_path):
    asked = {"anchor": miniatures.anchor(name, family), "training": CONFIG, "quiet": True}
    data = miniatures.data(family, squares)
    run = erase(miniatures.pipeline(family), "class:1", data, quick(name), **asked)
    run.save(tmp_path / "run")
    plain = plain_denoiser(tmp_path / "run" / "model")
    shape = run.model.encode(torch.zeros(2, *run.model.image_shape)).shape
    x, t = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 60])
    labels = torch.tensor([0, 2]) if run.model.conditions.num_classes else None
    with torch.no_grad():
        assert torch.equal(run.model.ask(plain, x, t, labels), run.model.ask(run.model.denoiser, x, t, labels))


def plain_denoiser(directory):
    """The denoiser of a pipeline directory, read by diffusers alone."""
    index = json.loads((directory / "model_index.json").read_text())
    part = next(p for p in ("unet", "transformer") if p in index)
    return getattr(diffusers, index[part][1]).from_pretrained(directory / part).eval()


@pytest.mark.parametrize("name", METHODS)
def test_configuration_round_trip(name):
    made = METHODS[name]()
    assert method_named(name, asdict(made)) == made
    with pytest.raises(BadInput, match="nonsense"):
        method_named(name, {"nonsense": 1})


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_declares(name):
    kind = METHODS[name]
    assert kind.PAPER.startswith("arXiv:")
    assert kind.SUMMARY
    assert (kind().forward_equivalents() == 0) == is_edit(name)


@pytest.mark.parametrize(("name", "family"), CASES)
def test_the_declared_cost_of_a_step_is_the_measured_one(name, family, squares):
    s = session(name, family, squares)
    s.context.spent = 0.0
    for step in range(2):  # a method that draws stops once at each of its two sampling steps
        s.context.begin(step)
        s.method.direction(s.context, s.pairs.at(step), s.state)
    assert s.context.spent / 2 / s.pairs.batch_size == s.method.forward_equivalents()


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_steps(rule, squares):
    method = METHODS["erasediff"](rule=rule)
    run = erase(TINY["unet2d"]().pipeline(), "class:1", squares, method, training=CONFIG, quiet=True)
    assert all(torch.isfinite(torch.tensor(list(r.values()))).all() for r in run.history)


def test_a_method_that_needs_classes_is_refused_an_unconditional_model(squares):
    method = METHODS["erasediff"](forget_target="relabel")
    with pytest.raises(BadInput, match=r"relabels.*use --method.forget_target auto"):
        erase(TINY["unet2d-unconditional"]().pipeline(), "class:1", squares, method, quiet=True)


@pytest.mark.parametrize(("name", "family"), REFUSED)
def test_what_is_not_supported_is_refused_with_the_reason(name, family, squares):
    asked = {"anchor": miniatures.anchor(name, family) if TINY[family]().conditions.num_classes else None}
    kind = VARIANTS.get(name, (name, {}))[0]
    with pytest.raises(BadInput, match=rf"^method {kind} .*(; use|give --anchor)"):
        erase(miniatures.pipeline(family), "class:1", squares, quick(name), quiet=True, **asked)


def test_auto_is_decided_and_recorded(squares):
    plan = {"dry_run": True, "quiet": True}
    chosen = {
        (family, target): erase(TINY[family]().pipeline(), target, squares, **plan).record["method"]["fields"]
        for family in ("unet2d", "unet2d-unconditional")
        for target in ("class:1",)
    }
    assert chosen["unet2d", "class:1"]["forget_target"] == "relabel"
    assert chosen["unet2d-unconditional", "class:1"]["forget_target"] == "redirect"


def test_families_and_methods_do_not_know_each_other():
    import ast
    from pathlib import Path

    def words(folder):
        sources = (Path(families.__file__).parents[1] / folder).rglob("*.py")
        return {n.value for p in sources for n in ast.walk(ast.parse(p.read_text())) if isinstance(n, ast.Constant)}

    assert not {"unet2d"} & words("methods")
    assert not set(METHODS) & words("families")
