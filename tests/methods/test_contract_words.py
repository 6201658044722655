"""What every method owes every family asked in words, on a miniature of each; and what methods without steps owe."""

import copy

import pytest
import torch
from tests.methods import _miniatures as miniatures
from tests.methods import test_contract as contract
from tests.methods._miniatures import TEXT, VARIANTS, pairs, quick

from erasediff import families
from erasediff.api.erase import erase
from erasediff.cli import list as listed
from erasediff.errors import BadInput
from erasediff.methods import METHODS
from erasediff.methods.base import Concepts

NAMES, HOME = [*METHODS, *VARIANTS], "stable_diffusion"
WORDED = sorted(set(TEXT) & set(families.FAMILIES))
STEPS = [*pairs(METHODS, WORDED), *pairs(VARIANTS, [HOME])]
# Where v is predicted, the methods whose papers know noise only.
STEPS += pairs(["esd", "esd, data", "concept_ablation"], ["stable_diffusion-v"])
EDITS = pairs(NAMES, WORDED, edits=True)
# One method of each kind at home and one on every other family; what the others share with them is tested elsewhere.
FEW = {("erasediff, anchor", HOME), ("salun", HOME), ("esd", HOME), ("concept_ablation", HOME)}
FEW |= {("erasediff", family) for family in WORDED if family != HOME}
SOME = [
    pytest.param(n, f, marks=() if (n, f) in FEW else pytest.mark.wide) for n, f in STEPS if (n, f) in FEW or f == HOME
]
# In the last block no word is updated any more, so nobody hears what words ask there.
UNHEARD = {
    "stable_diffusion_3": ("attn.add_q_proj",),
    "qwen_image": ("attn.add_q_proj", "attn.norm_added_q", "attn.to_add_out", "txt_mlp"),
}


def test_every_pair_of_a_listed_method_and_a_listed_family_is_in_a_contract():
    """Here or in test_contract.py: as a pair that works, or as one that is refused with the reason."""
    named = [(m, f) for m in listed.methods() for f in listed.families()]
    works = {(n, f.partition("-")[0]) for n, f in [*contract.EVERY, *STEPS, *EDITS] if n in METHODS}
    refused = {(n, f.partition("-")[0]) for n, f in contract.REFUSED if n in METHODS}
    assert works | refused == {(m["name"], f["name"]) for m, f in named}
    # With no model of the family does it work where the method reads text and the family is asked by class.
    by_class = {(m["name"], f["name"]) for m, f in named if m["needs"]["text_maps"] and "concept" not in f["targets"]}
    assert refused - works == by_class != set()


def test_what_a_family_asked_in_words_lacks_no_method_needs():
    assert not miniatures.refused(NAMES, sorted(TEXT))
    assert {n for n, _ in STEPS + EDITS} == set(NAMES)


@pytest.mark.parametrize("family", WORDED)
def test_a_method_that_needs_an_anchor_is_refused_without_one(family, squares):
    data, needing = miniatures.data(family, squares), [n for n in NAMES if quick(n).needs.anchor]
    assert needing
    for name in needing:
        kind = VARIANTS.get(name, (name, {}))[0]
        with pytest.raises(BadInput, match=rf"^method {kind} leads forget samples to an anchor.*give --anchor TEXT"):
            erase(miniatures.pipeline(family), "class:1", data, quick(name), quiet=True)


@pytest.mark.parametrize(("name", "family"), miniatures.spread(STEPS, HOME, ("erasediff", "esd")))
def test_a_direction_is_finite_whole_repeatable_and_costs_what_is_declared(name, family, squares):
    s = contract.session(name, family, squares)
    before = contract.weights(s)
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
        unheard = tuple(f"transformer_blocks.1.{part}." for part in UNHEARD.get(family, ()))
        assert gradient.abs().sum() > 0 or weight_name.startswith(unheard), weight_name
    s.context.begin(0)
    again = s.method.direction(s.context, s.pairs.at(0), s.state).gradients
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in s.trained.items())
    frozen = [part for part in s.context.model.parts.values() if isinstance(part, torch.nn.Module)]
    assert frozen and all(p.grad is None for part in frozen for p in part.parameters())


@pytest.mark.parametrize(("name", "family"), SOME)
def test_a_resumed_run_is_the_unbroken_run(name, family, squares):
    contract.test_a_resumed_run_is_the_unbroken_run(name, family, squares)


@pytest.mark.parametrize(("name", "family"), SOME + EDITS)
def test_what_is_erased_and_saved_predicts_the_same_in_plain_diffusers(name, family, squares, tmp_path):
    asked = {"anchor": miniatures.anchor(name, family), "training": contract.CONFIG, "quiet": True}
    run = erase(miniatures.pipeline(family), "class:1", miniatures.data(family, squares), quick(name), **asked)
    run.save(tmp_path / "run")
    plain, again = contract.plain_denoiser(tmp_path / "run" / "model"), families.load(tmp_path / "run")
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 60])
    labels, base = torch.tensor([0, 2]), miniatures.model(name, family)
    with torch.no_grad():
        said = run.model.ask(plain, x, t, labels)
        assert torch.equal(said, run.model.ask(run.model.denoiser, x, t, labels))
        again = again.with_prompts(run.model.class_names)
        assert torch.equal(said, again.ask(again.denoiser, x, t, labels))
        assert not torch.equal(said, base.ask(base.denoiser, x, t, labels))


@pytest.mark.parametrize(("name", "family"), EDITS)
def test_an_edit_is_finite_repeatable_and_leaves_the_model_alone(name, family):
    model, method = miniatures.model(name, family), quick(name)
    before = copy.deepcopy(model.denoiser).state_dict()
    first, second = method.edit(model, Concepts.of(model.conditions)), method.edit(model, Concepts.of(model.conditions))
    weights = dict(model.denoiser.named_parameters())
    assert set(first) == {m.parameter for m in model.text_maps(model.denoiser)} and first
    for name_, edited in first.items():
        assert edited.shape == weights[name_].shape and edited.dtype == weights[name_].dtype
        assert torch.isfinite(edited).all()
        assert torch.equal(edited, second[name_]) and not torch.equal(edited, weights[name_])
    assert all(torch.equal(before[n], p) for n, p in model.denoiser.state_dict().items())


@pytest.mark.parametrize(("name", "family"), EDITS)
def test_only_edited_weights_differ_from_the_base(name, family, squares):
    pipeline, data = miniatures.pipeline(family), miniatures.data(family, squares)
    run = erase(pipeline, "class:1", data, quick(name), anchor=miniatures.anchor(name, family), quiet=True)
    before, after = pipeline.components[run.model.DENOISER].state_dict(), run.model.denoiser.state_dict()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {m.parameter for m in run.model.text_maps(run.model.denoiser)}
