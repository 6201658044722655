"""UCE's claims: erased prompts are read as the anchor's, the others as before, in closed form."""

import copy
from dataclasses import replace

import pytest
import torch
from tests.families import _tiny_text

from erasediff.errors import BadInput
from erasediff.families import adopt
from erasediff.families.prompts import PromptTable
from erasediff.families.tiny import TINY
from erasediff.methods.base import Concepts
from erasediff.methods.uce import UCE, chosen_rows
from erasediff.training.loop import put

PROMPTS = ["my cat", "my dog", "the sea"]
X_T = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
NULL, ANCHOR = 4, 3


@pytest.fixture(scope="module")
def pipe():
    return _tiny_text.stable_diffusion()


def asked_in_words(pipe, *, anchor="my pet", excluded=(0,)):
    model = adopt(pipe).with_prompts(PROMPTS, anchor=anchor)
    model.conditions = replace(model.conditions, excluded=excluded)
    return model


def told_apart(pipe, **options):
    """As above, but prompts of four rows that are all independent: what is claimed in the limit can be had exactly."""
    model = asked_in_words(pipe, **options)
    rows = torch.randn(len(model.table), 4, 32, generator=torch.Generator().manual_seed(2))
    rows[:, 0] = rows[0, 0]  # as a causal encoder says of the first token
    return replace(model, table=PromptTable(model.table.prompts, {"encoder_hidden_states": rows}))


def answer(model, label, denoiser=None):
    with torch.no_grad():
        return model.ask(denoiser or model.denoiser, X_T, torch.tensor([500]), torch.tensor([label]))


def edited(model, method):
    denoiser = copy.deepcopy(model.denoiser)
    put(denoiser, method.edit(model, Concepts.of(model.conditions)))
    return denoiser


def test_the_erased_prompt_is_answered_as_the_anchor_was_and_all_others_as_they_were(pipe):
    model = told_apart(pipe)
    after = edited(model, UCE(ridge=1e-9))
    apart = (answer(model, 0) - answer(model, ANCHOR)).norm()
    assert apart > 1e-2
    assert (answer(model, 0, after) - answer(model, ANCHOR)).norm() < 1e-3 * apart
    for label in (1, 2, ANCHOR, NULL):
        assert (answer(model, label, after) - answer(model, label)).norm() < 1e-3 * apart


def test_without_an_anchor_the_erased_prompt_is_answered_as_the_empty_one(pipe):
    model = told_apart(pipe, anchor=None)
    after = edited(model, UCE(ridge=1e-9))
    apart = (answer(model, 0) - answer(model, 3)).norm()
    assert (answer(model, 0, after) - answer(model, 3)).norm() < 1e-3 * apart
    anchored = told_apart(pipe)
    led = edited(anchored, UCE(ridge=1e-9, towards="unconditional"))
    assert (answer(anchored, 0, led) - answer(anchored, NULL)).norm() < 1e-3 * apart


def test_several_prompts_at_once(pipe):
    model = told_apart(pipe, excluded=(0, 2))
    after = edited(model, UCE(ridge=1e-9))
    for label in (0, 2):
        apart = (answer(model, label) - answer(model, ANCHOR)).norm()
        assert (answer(model, label, after) - answer(model, ANCHOR)).norm() < 1e-3 * apart
    assert (answer(model, 1, after) - answer(model, 1)).norm() < 1e-3 * apart


def test_every_row_from_the_concept_on_carries_it_and_none_before(pipe):
    """A causal encoder: "my" says the same of cats and dogs; from the noun on all rows differ, padding too."""
    model = asked_in_words(pipe)
    rows = model.table.embeddings["encoder_hidden_states"]
    sources, targets, kept = chosen_rows(rows, {0: ANCHOR}, (1, 2, ANCHOR, NULL))
    first = len(pipe.tokenizer("my").input_ids) - 1  # without the end
    assert torch.equal(sources, rows[0, first:])
    assert torch.equal(targets, rows[ANCHOR, first:])
    assert len(kept) == len(rows[1:].flatten(0, 1).unique(dim=0))
    assert not any((kept == row).all(1).any() for row in sources)


def test_editing_the_concepts_own_row_alone_leaves_it_in_the_rows_after_it(pipe):
    """Why more rows enter than the last subject token's: the padding still says what it was."""
    model = asked_in_words(pipe)
    whole, rows = UCE(ridge=1e-9), model.table.embeddings["encoder_hidden_states"].clone()
    noun = len(pipe.tokenizer("my").input_ids) - 1
    only = rows.clone()
    only[0, noun + 1 :] = only[ANCHOR, noun + 1 :]  # rows that the anchor has too do not enter
    one = replace(model, table=PromptTable(model.table.prompts, {"encoder_hidden_states": only}))
    left = [float((answer(model, 0, edited(given, whole)) - answer(model, ANCHOR)).norm()) for given in (model, one)]
    assert left[0] < 0.7 * left[1]


def test_a_model_that_reads_no_text_is_refused():
    model = TINY["unet2d"]()
    with pytest.raises(BadInput, match="no maps that read text"):
        UCE().edit(model, Concepts.of(model.conditions))


def test_a_prompt_that_says_the_same_as_one_that_stays():
    rows = torch.ones(3, 2, 4)
    with pytest.raises(BadInput, match="says the same as one that stays"):
        chosen_rows(rows, {0: 2}, (1, 2))


def test_pooled_embeddings_are_one_row():
    rows = torch.eye(4)[:3].reshape(3, 1, 4)
    sources, targets, kept = chosen_rows(rows, {0: 2}, (1, 2))
    assert torch.equal(sources, rows[0]) and torch.equal(targets, rows[2]) and len(kept) == 2


@pytest.mark.parametrize(
    "fields", [{"towards": "nowhere"}, {"ridge": 0.0}, {"erase_weight": -1.0}, {"preserve_weight": float("nan")}]
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(BadInput, match=next(iter(fields))):
        UCE(**fields)
