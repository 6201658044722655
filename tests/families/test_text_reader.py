"""The reader says of vectors what the pipeline says of words, lets gradients through, and changes nothing."""

import copy

import pytest
import torch

from erasediff.errors import BadInput
from erasediff.families import stable_diffusion
from erasediff.families.base import Searchable
from erasediff.families.tiny import TINY
from tests.families import _tiny_text as tiny

PROMPTS = ["a cat", "dog", "the sea, at 9", "cat dog cat dog cat dog cat"]
NAME = "encoder_hidden_states"


@pytest.fixture(scope="module")
def model():
    return stable_diffusion.adopt(tiny.stable_diffusion()).with_prompts(PROMPTS)


@pytest.fixture(scope="module")
def reader(model):
    return model.reader()


@pytest.mark.parametrize("grad", [False, True])
def test_vectors_of_a_prompts_tokens_are_read_as_the_prompt_bit_for_bit(model, reader, grad):
    for row, prompt in zip(model.table.embeddings[NAME], [*PROMPTS, ""], strict=True):
        vectors = reader.vectors[list(reader.tokens(prompt))][None].clone().requires_grad_(grad)
        read = reader.read(vectors)
        assert read.keys() == {NAME}
        assert torch.equal(read[NAME][0], row)


def test_padding_is_the_tokenizers_own():
    pipe = tiny.stable_diffusion()
    pipe.tokenizer.pad_token = "!"  # as in Stable Diffusion 2
    other = stable_diffusion.adopt(pipe).with_prompts(["a cat"])
    reader = other.reader()
    read = reader.read(reader.vectors[list(reader.tokens("a cat"))][None])
    assert torch.equal(read[NAME][0], other.table.embeddings[NAME][0])
    ends = other.table.embeddings[NAME][0, 3:]
    assert (ends[0] - ends[1]).abs().max() > 1e-3


def test_several_are_read_as_each_alone(reader):
    vectors = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(0))
    together = reader.read(vectors)[NAME]
    alone = torch.cat([reader.read(v[None])[NAME] for v in vectors])
    torch.testing.assert_close(together, alone)


def test_tokens_are_the_tokenizers_without_start_and_end(model, reader):
    assert reader.tokens("a cat") == tuple(model.tokenizer("a cat").input_ids[1:-1])
    assert reader.tokens("") == ()
    assert reader.room == tiny.LENGTH - 2
    assert reader.vectors.shape == (88, 32) and not reader.vectors.requires_grad


def test_every_word_is_read_as_itself_and_no_special_one_is_a_word(model, reader):
    words = reader.words.tolist()
    assert model.tokenizer.convert_tokens_to_ids("cat</w>") in words
    assert not set(words) & {model.tokenizer.bos_token_id, model.tokenizer.eos_token_id}
    for word in words:
        assert reader.tokens(reader.spelled([word])) == (word,)
    others = set(range(88)) - set(words)
    assert all(reader.spelled([t]) is None for t in others)


def test_tokens_that_no_text_has_are_not_spelled(model, reader):
    c, a, t = (model.tokenizer.convert_tokens_to_ids(piece) for piece in ("c", "a", "t</w>"))
    assert reader.spelled([c, a, t]) is None  # "cat" is one token
    assert reader.spelled([model.tokenizer.eos_token_id]) is None
    assert reader.spelled([]) == ""
    assert reader.spelled(reader.tokens("A  cat, it's 9")) == "a cat , it 's 9"


def test_gradients_reach_the_vectors_through_encoder_and_denoiser(model, reader):
    vectors = reader.vectors[list(reader.tokens("cat dog"))][None].clone().requires_grad_()
    asked = reader.with_rows(reader.read(vectors))
    x_t, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([5, 700])
    said = asked.ask(model.denoiser, x_t, t, torch.tensor([0, 0]))
    (gradient,) = torch.autograd.grad(said.square().mean(), [vectors])
    direction = gradient / gradient.norm()
    ends = []
    with torch.no_grad():
        for side in (-0.05, 0.05):
            moved = reader.with_rows(reader.read(vectors + side * direction))
            ends.append(moved.ask(model.denoiser, x_t, t, torch.tensor([0, 0])).square().mean())
    # A central difference is the oracle; fp32 leaves it three digits.
    torch.testing.assert_close((ends[1] - ends[0]) / 0.1, gradient.norm(), rtol=2e-2, atol=0)
    assert all(p.grad is None for p in (*model.text_encoder.parameters(), *model.denoiser.parameters()))


def test_rows_become_classes_and_the_null_condition_stays(model, reader):
    asked = reader.with_rows({NAME: model.table.embeddings[NAME][[2, 0]]})
    assert (asked.conditions.num_classes, asked.conditions.null_label) == (2, 2)
    assert asked.denoiser is model.denoiser
    x_t, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 5, 900])
    with torch.no_grad():
        said = asked.ask(model.denoiser, x_t, t, torch.tensor([0, 1, 2]))
        expected = model.ask(model.denoiser, x_t, t, torch.tensor([2, 0, 4]))
    assert torch.equal(said, expected)


def test_reading_changes_nothing(model, reader):
    before = copy.deepcopy(model.text_encoder.state_dict())
    reader.read(torch.zeros(1, 3, 32))
    assert all(torch.equal(before[k], v) for k, v in model.text_encoder.state_dict().items())
    assert torch.equal(model.with_prompts(PROMPTS).table.embeddings[NAME], model.table.embeddings[NAME])
    with pytest.raises(BadInput, match="15 tokens is too long: the model reads 14"):
        reader.read(torch.zeros(1, 15, 32))


def test_only_models_asked_in_words_are_read(model):
    assert isinstance(model, Searchable)
    assert not isinstance(TINY["unet2d"](), Searchable)
