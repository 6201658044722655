"""Objectives: what they ask, what their floors are, and what the null condition sees."""

from dataclasses import replace

import pytest
import torch
from tests.methods import _miniatures as miniatures

from erasediff.data.pairs import Pairs
from erasediff.errors import BadInput
from erasediff.families.base import ClassConditions
from erasediff.families.tiny import TINY
from erasediff.methods.erasediff import EraseDiff
from erasediff.methods.fine_tune import FineTune
from erasediff.methods.forgetting import FORGET_TARGETS, Asked
from erasediff.methods.objectives import (
    Anneal,
    Blend,
    Denoise,
    Distill,
    Held,
    Relabel,
    Unconditional,
    UniformNoise,
    condition_dropped,
)
from erasediff.methods.timesteps import UNIFORM
from erasediff.solver import rules
from erasediff.training.context import Context
from erasediff.training.parameters import select
from erasediff.training.processes import Processes


def context(family="unet2d", **options):
    model = TINY[family]()
    model.conditions = replace(model.conditions, excluded=(1,))
    return Context(model, select(model.denoiser, "full"), Processes.start(), seed=0, micro_batch=64, **options)


def forget_batch(squares, size=64):
    members = (squares.labels == 1).nonzero()[:, 0]
    return Pairs(squares, torch.arange(4), members, batch_size=size, seed=0).at(0).forget


@torch.no_grad()
def move(ctx):
    """Away from the frozen model, or distillation would have no gradient."""
    for parameter in ctx.model.denoiser.parameters():
        parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))


def test_distillation_begins_at_zero(squares):
    losses = Distill(0.5)(context(), forget_batch(squares))
    # A student's products may be folded otherwise than a frozen model's, so the last bits may differ.
    assert losses.loss.abs().max() < 1e-12
    assert losses.floor.abs().max() == 0
    assert losses.denoise.min() > 0


@pytest.mark.parametrize("objective", [Denoise(0.5), Anneal(0.5), Distill(0.5)])
def test_held_classes_count_for_more_unless_their_condition_is_dropped(objective, squares):
    ctx, batch = context(), Pairs(squares, torch.arange(64), None, batch_size=64, seed=0).at(0).retain
    move(ctx)
    counts = torch.tensor([0.5, 0.0, 3.0, 1.5])
    plain, found = objective(ctx, batch), Held(objective, counts)(ctx, batch)
    dropped = condition_dropped(ctx, batch, 0.5) == ctx.model.conditions.null_label
    assert 0 < dropped.sum() < 64
    assert torch.allclose(found.loss, torch.where(dropped, 1.0, counts[batch.labels]) * plain.loss)
    assert torch.equal(found.denoise, plain.denoise), "a retain budget is in units of the plain loss"
    assert (found.floor is None) == (plain.floor is None)
    ctx.progress = 1.0
    assert torch.allclose(Held(objective, counts)(ctx, batch).loss, objective(ctx, batch).loss), "alike in the end"


def test_a_model_without_a_null_condition_drops_nothing(squares):
    ctx, batch = context(), Pairs(squares, torch.arange(16), None, batch_size=16, seed=0).at(0).retain
    ctx.model.conditions = replace(ctx.model.conditions, null_label=None)
    found = Held(Denoise(0.5), torch.tensor([2.0, 2.0, 2.0, 2.0]))(ctx, batch)
    assert torch.allclose(found.loss, 2 * Denoise(0.5)(ctx, batch).loss)


def test_the_unconditional_target_is_met_by_the_frozen_model_under_its_null_condition(squares):
    ctx, batch = context(), forget_batch(squares)
    noisy = ctx.noised(batch)
    null = ctx.predict(noisy, ctx.model.conditions.null(batch.labels))
    own = ctx.predict(noisy, ctx.model.conditions.own(batch.labels))
    losses = Unconditional()(ctx, batch)
    assert torch.allclose(losses.loss, ctx.divergence(own, null), atol=1e-7)


@pytest.mark.parametrize("family", ["unet2d", "unet2d-v", "unet2d-sample"])
def test_the_noise_floor_is_reached_by_the_constant_half_and_not_passed(family, squares):
    """Predicting the noise 1/2 everywhere is the best that any function can do against U[0, 1)."""
    ctx = context(family)
    batch = forget_batch(squares, 400)
    noisy, noising = ctx.noised(batch), ctx.model.noising
    target = ctx.uniform_like(batch, noisy.noise, "forget_noise")
    weight = noising.noise_weight(noisy)
    at = lambda value: (weight * (target - value).square()).flatten(1).mean()  # noqa: E731
    losses = UniformNoise(0.0)(ctx, batch)
    assert at(0.5) == pytest.approx(float(losses.floor.mean()), rel=0.02)
    assert at(0.4) > at(0.5) < at(0.6)
    assert losses.loss.mean() > losses.floor.mean()


@pytest.mark.parametrize("repulsion", [0.0, 0.5])
def test_the_relabel_floor_is_the_variance_over_the_drawn_classes(squares, repulsion):
    ctx = context()
    batch = forget_batch(squares, 4000)
    t = torch.full((4000,), 40)
    ctx.noised = lambda b, _real=ctx.noised: _real(b, t=t, noise=torch.zeros(4000, 1, 8, 8))
    batch = replace(batch, images=batch.images[:1].expand(4000, -1, -1, -1), labels=torch.full((4000,), 1))
    losses = Relabel(0.0, floor=True, repulsion=repulsion)(ctx, batch)
    noisy = ctx.noised(batch)
    said = torch.stack([ctx.predict(noisy, torch.full((4000,), c), frozen=True)[0] for c in (0, 2, 3)])
    own = ctx.predict(noisy, torch.full((4000,), 1), frozen=True)[0]
    targets = said + repulsion * (said - own)
    best = (targets - targets.mean(0)).square().mean()  # brute force: the mean is the best constant
    assert best > 0
    assert float(losses.floor.mean()) == pytest.approx(float(best), rel=0.1)


def test_a_share_of_conditions_is_dropped(squares):
    ctx, batch = context(), forget_batch(squares, 2000)
    dropped = condition_dropped(ctx, batch, 0.3) == ctx.model.conditions.null_label
    assert 0.26 < dropped.double().mean() < 0.34
    assert torch.equal(condition_dropped(ctx, batch, 0.0), batch.labels)


def test_the_null_condition_gets_a_forget_gradient_by_default_and_none_without_the_share(squares):
    def null_gradient(share):
        ctx = context()
        (term,) = ctx.gradients((Relabel(share), forget_batch(squares)))
        names = list(dict(ctx.model.denoiser.named_parameters()))
        return term.gradients[names.index("class_embedding.weight")][ctx.model.conditions.null_label].abs().sum()

    assert null_gradient(EraseDiff().null_share) > 0
    assert null_gradient(0.0) == 0


def test_teacher_passes_keep_no_graph(squares):
    ctx, batch = context(), forget_batch(squares)
    assert ctx.predict(ctx.noised(batch), batch.labels).requires_grad
    assert not ctx.predict(ctx.noised(batch), batch.labels, frozen=True).requires_grad


@pytest.mark.parametrize("size", [1, 3, 7])
def test_micro_batches_add_up_to_the_whole_batch(squares, size):
    batch = forget_batch(squares, 8)
    objectives = [Denoise(0.3), Relabel(0.3), UniformNoise(0.3)]
    whole, pieces = context(), context()
    whole.micro_batch, pieces.micro_batch = 8, size
    for objective in objectives:
        (a,), (b,) = whole.gradients((objective, batch)), pieces.gradients((objective, batch))
        assert torch.allclose(a.loss, b.loss, atol=1e-6)
        for x, y in zip(a.gradients, b.gradients, strict=True):
            assert torch.allclose(x, y, atol=1e-6)


def test_a_whole_batch_gradient_is_that_of_the_mean_loss(squares):
    ctx, batch = context(), forget_batch(squares, 8)
    (term,) = ctx.gradients((Denoise(0.0), batch))
    ctx.model.denoiser.zero_grad()
    Denoise(0.0)(ctx, batch).loss.mean().backward()
    for lifted, parameter in zip(term.gradients, ctx.model.denoiser.parameters(), strict=True):
        assert torch.allclose(lifted, parameter.grad, atol=1e-7)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"forget_target": "relable"}, "did you mean relabel"),
        ({"retain": "x"}, "denoise, distill"),
        ({"rule": "dynamic_barier"}, "did you mean dynamic_barrier"),
        ({"eta": 0.0}, "eta must be above 0"),
        ({"eta": float("nan")}, "eta must be above 0"),
        ({"null_share": 1.5}, r"\[0, 1\]"),
        ({"repulsion": -1.0}, "repulsion"),
        ({"eta_end": -0.1}, "eta_end must be finite and not negative"),
    ],
)
def test_bad_fields_are_named(fields, said):
    with pytest.raises(BadInput, match=said):
        EraseDiff(**fields)


@pytest.mark.parametrize(
    ("conditions", "retain"),
    [
        (ClassConditions(3, 3, excluded=(1,)), "anneal"),
        (ClassConditions(3, 3, excluded=(1,), anchor=2), "anneal"),
        (ClassConditions(3, 3, excluded=(1,), in_words=True), "distill"),
        (ClassConditions(3, 3, excluded=(1,), anchor=2, in_words=True), "distill"),
        (ClassConditions(3, 3), "denoise"),
        (ClassConditions(0, None), "denoise"),
    ],
)
def test_how_is_retained_depends_on_what_goes(conditions, retain):
    assert EraseDiff().suited_to(conditions).retain == retain
    assert EraseDiff(retain="denoise").suited_to(conditions).retain == "denoise"


def test_the_barrier_fades_over_the_run_where_classes_go(squares, monkeypatch):
    """``eta`` at the beginning, ``eta_end`` at the end, in a straight line: what the rule is given."""
    assert EraseDiff().suited_to(ClassConditions(3, 3, excluded=(1,))).eta_end == 0
    assert EraseDiff(eta=0.7).suited_to(ClassConditions(3, 3)).eta_end == 0.7
    given = []
    kind = rules.RuleInputs
    monkeypatch.setattr(rules, "RuleInputs", lambda **inputs: given.append(inputs["eta"]) or kind(**inputs))
    ctx, pairs = context(), Pairs(squares, torch.arange(4), torch.arange(4), batch_size=4, seed=0)
    for method, wanted in ((EraseDiff(eta=0.8), [0.8, 0.4]), (EraseDiff(eta=0.8, eta_end=0.6), [0.8, 0.7])):
        for step in (0, 4):
            ctx.begin(step, of=8)
            method.direction(ctx, pairs.at(0), {})
        assert given == pytest.approx(wanted)
        given.clear()


def test_how_hard_the_barrier_pushes_depends_on_the_target_unless_told():
    samples, classes = ClassConditions(0, None), ClassConditions(3, 3, excluded=(1,))
    first, last = FORGET_TARGETS["redirect"].eta, FORGET_TARGETS["relabel"].eta
    assert first > last > 0
    assert [(m.eta, m.eta_end) for m in (EraseDiff().suited_to(c) for c in (samples, classes))] == [
        (first, first),
        (last, 0),
    ]
    assert EraseDiff(eta=0.1).suited_to(samples).eta == EraseDiff(eta=0.1).suited_to(samples).eta_end == 0.1


def test_which_rule_weighs_depends_on_the_target_unless_told():
    """Words and samples were not measured under the new one: they keep the paper's."""
    samples, classes = ClassConditions(0, None), ClassConditions(3, 3, excluded=(1,))
    assert EraseDiff().suited_to(classes).rule == "projected_barrier"
    assert EraseDiff(rule="mgda").suited_to(classes).rule == "mgda"
    assert EraseDiff(forget_target="noise").suited_to(classes).rule == "dynamic_barrier"
    for conditions in (samples, replace(classes, in_words=True)):
        assert EraseDiff().suited_to(conditions).rule == "dynamic_barrier"


def test_the_rule_that_was_left_open_is_the_one_that_steps(squares):
    ctx, pairs = context(), Pairs(squares, torch.arange(4), torch.arange(4), batch_size=4, seed=0)
    ctx.begin(0, of=8)
    ctx.model.conditions = replace(ctx.model.conditions, excluded=(1,))
    steps = {
        rule: EraseDiff(rule=rule, retain_focus=0.0).direction(ctx, pairs.at(0), {}).gradients
        for rule in ("auto", "projected_barrier", "mgda")
    }
    told = {name: torch.cat([g.flatten() for g in found]) for name, found in steps.items()}
    assert torch.equal(told["auto"], told["projected_barrier"])
    assert not torch.equal(told["auto"], told["mgda"])


def test_how_far_is_pushed_depends_on_the_target_unless_told():
    conditions = ClassConditions(3, 3, excluded=(1,))
    assert EraseDiff().suited_to(conditions).repulsion == FORGET_TARGETS["relabel"].repulsion > 0
    assert EraseDiff().suited_to(replace(conditions, anchor=2)).repulsion == FORGET_TARGETS["anchor"].repulsion > 0
    assert EraseDiff(repulsion=0.0).suited_to(conditions).repulsion == 0
    assert EraseDiff().suited_to(ClassConditions(0, None)).repulsion == 0
    plain = EraseDiff(repulsion=0.0, residual=0.0)
    assert EraseDiff().forward_equivalents() == plain.forward_equivalents() + 1


def test_a_method_without_the_frozen_model_cannot_ask_it(squares):
    assert not FineTune().needs.frozen
    ctx = context(frozen=False)
    with pytest.raises(BadInput, match=r"needs\.frozen"):
        ctx.predict(ctx.noised(forget_batch(squares)), None, frozen=True)


def test_a_blend_is_half_of_each_gradient(squares):
    """Its target is the mean of the two, so its gradient is the mean of theirs."""
    ctx, batch = context(), forget_batch(squares, 8)
    move(ctx)
    blend, denoise, distill = ctx.gradients((Blend(0.3), batch), (Denoise(0.3), batch), (Distill(0.3), batch))
    for found, one, other in zip(blend.gradients, denoise.gradients, distill.gradients, strict=True):
        assert torch.allclose(found, (one + other) / 2, atol=1e-6)
    assert torch.allclose(blend.denoise, denoise.loss)
    assert blend.floor is None


@pytest.mark.parametrize(("step", "same"), [(0, Distill), (4, Blend), (8, Denoise)])
def test_annealing_goes_from_distilling_to_denoising(squares, step, same):
    ctx, batch = context(), forget_batch(squares, 8)
    move(ctx)
    ctx.begin(step, of=8)
    annealed, other = ctx.gradients((Anneal(0.3), batch), (same(0.3), batch))
    for found, wanted in zip(annealed.gradients, other.gradients, strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose(annealed.denoise, other.denoise)


@pytest.mark.parametrize("target", ["anchor", "unconditional", "relabel"])
@pytest.mark.parametrize("family", ["unet2d", "stable_diffusion"])
def test_model_and_frozen_model_are_asked_about_the_same_noised_latent(target, family, squares, monkeypatch):
    """One image, one latent, one noise, one step for both passes: else the target would answer another question."""
    name = "erasediff, anchor" if target == "anchor" else "erasediff"
    model, data = miniatures.model(name, family), miniatures.data(family, squares)
    ctx = Context(model, select(model.denoiser, "full"), Processes.start(), seed=0, micro_batch=4)
    batch = Pairs(data, torch.arange(4), (data.labels == 1).nonzero()[:, 0], batch_size=4, seed=0).at(0).forget
    seen = []
    plain = ctx.predict

    def noted(noisy, condition, *, frozen=False):
        seen.append((frozen, noisy.x_t.clone(), noisy.t.clone(), condition.clone()))
        return plain(noisy, condition, frozen=frozen)

    monkeypatch.setattr(ctx, "predict", noted)
    asked = Asked(state={}, null_share=0.0, repulsion=0.5, floor=False, watched=True, timesteps=UNIFORM)
    FORGET_TARGETS[target].make(asked)(ctx, batch)
    assert {frozen for frozen, *_ in seen} == {True, False}
    assert all(torch.equal(x, seen[0][1]) and torch.equal(t, seen[0][2]) for _, x, t, _ in seen)
    (own,) = [condition for frozen, _, _, condition in seen if not frozen]
    assert torch.equal(own, batch.labels)
    conditions = model.conditions
    if target != "relabel":
        led = conditions.anchored(own) if target == "anchor" else conditions.null(own)
        assert any(torch.equal(condition, led) for frozen, _, _, condition in seen if frozen)


def test_what_is_left_of_the_own_answer_is_all_at_first_and_what_was_taken_away_later(squares):
    """A student between the frozen model's own answer and another class's has that share of the own one left."""
    ctx, batch = context(), forget_batch(squares, 8)
    found = ctx.gradients((Relabel(0.0, repulsion=0.5), batch))[0]
    assert found.residual.shape == (8, 2)
    assert found.left == pytest.approx(1, abs=1e-5)
    ask = ctx.predict

    def between(noisy, condition, *, frozen=False):
        if frozen:
            return ask(noisy, condition, frozen=True)
        other = ctx.model.conditions.other(batch.labels, ctx.uniform(batch, "other"))
        own = ask(noisy, condition, frozen=True)
        return 0.25 * own + 0.75 * ask(noisy, other, frozen=True) + 0 * ask(noisy, condition)

    ctx.predict = between
    assert ctx.gradients((Relabel(0.0, repulsion=0.5), batch))[0].left == pytest.approx(0.25, abs=1e-5)


def test_what_is_left_does_not_depend_on_micro_batches(squares):
    whole, small = context(), context()
    small.micro_batch = 3
    move(whole), move(small)
    batch = forget_batch(squares, 8)
    found = [ctx.gradients((Relabel(0.3, repulsion=0.5), batch))[0].left for ctx in (whole, small)]
    assert torch.allclose(*found, atol=1e-5)


def test_what_is_left_costs_a_frozen_pass_only_where_nothing_is_pushed_away(squares):
    batch, spent = forget_batch(squares, 8), {}
    for name, objective in {
        "plain": Relabel(0.0),
        "watched": Relabel(0.0, watched=True),
        "repelled": Relabel(0.0, repulsion=0.5),
        "both": Relabel(0.0, repulsion=0.5, watched=True),
    }.items():
        ctx = context()
        (term,) = ctx.gradients((objective, batch))
        spent[name] = ctx.spent
        assert (term.left is None) == (name == "plain")
    assert spent["plain"] + 8 == spent["watched"] == spent["repelled"] == spent["both"]


def test_where_no_class_differs_from_another_nothing_is_left(squares):
    ctx, batch = context(), forget_batch(squares, 8)
    ask = ctx.predict
    ctx.predict = lambda noisy, condition, **asked: ask(noisy, torch.zeros_like(condition), **asked)
    assert ctx.gradients((Relabel(0.0, watched=True), batch))[0].left == 0
