"""The contract on models asked in words, and what methods without steps owe."""

import copy

import pytest
import torch
from tests.methods import _miniatures as miniatures
from tests.methods import test_contract as contract
from tests.methods._miniatures import TEXT, VARIANTS, pairs, quick

from erasediff.api.erase import erase
from erasediff.methods import METHODS
from erasediff.methods.base import Concepts

# All methods where noise is predicted; where v is, those whose papers know noise only.
EVERY = pairs([*METHODS, *VARIANTS], ["stable_diffusion"])
EVERY += pairs(["esd", "esd, data", "concept_ablation"], ["stable_diffusion-v"])
# One method of each kind; what the others share with it is tested on other miniatures.
FEW = {"erasediff, anchor", "salun", "esd", "concept_ablation"}
SOME = [pytest.param(n, f, marks=() if n in FEW else pytest.mark.slow) for n, f in EVERY]
EDITS = pairs([*METHODS, *VARIANTS], sorted(TEXT), edits=True)


def test_every_method_runs_on_a_model_asked_in_words():
    """None is refused: what a miniature of Stable Diffusion lacks, no method needs."""
    assert not miniatures.refused([*METHODS, *VARIANTS], sorted(TEXT))
    assert {n for n, _ in EVERY + EDITS} == {*METHODS, *VARIANTS}


@pytest.mark.parametrize(("name", "family"), EVERY)
def test_gradients_weights_and_costs(name, family, squares):
    contract.test_gradients_are_finite_and_reach_every_weight(name, family, squares)
    contract.test_direction_leaves_the_weights_and_grad_alone(name, family, squares)
    contract.test_the_declared_cost_of_a_step_is_the_measured_one(name, family, squares)


@pytest.mark.parametrize(("name", "family"), SOME)
def test_a_resumed_run_is_the_unbroken_run(name, family, squares):
    contract.test_a_resumed_run_is_the_unbroken_run(name, family, squares)


@pytest.mark.parametrize(("name", "family"), SOME + EDITS)
def test_what_is_saved_predicts_the_same_in_plain_diffusers(name, family, squares, tmp_path):
    contract.test_what_is_saved_predicts_the_same_in_plain_diffusers(name, family, squares, tmp_path)


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
    after, before = run.pipeline.unet.state_dict(), pipeline.unet.state_dict()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {m.parameter for m in run.model.text_maps(run.model.denoiser)}
