"""Tokenizer and text encoder from captions: words are whole, all can be asked, letters tell what is alike."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import CLIPTokenizer

from erasediff.errors import BadInput
from erasediff.families import vocabulary as words
from erasediff.families.vocabulary import WORD_END, lettered, text_encoder, tokenizer

CAPTIONS = ["a photo of a sneaker", "sneakers on a table", "an ankle boot", "bcat, cat cats!", "ein schönes Hütchen"]
WORDS = st.lists(st.text("abc", min_size=1, max_size=7), min_size=1, max_size=12)  # few letters: pairs that interfere


@given(WORDS)
@settings(max_examples=30, deadline=None)
def test_every_word_of_the_captions_is_one_token(said):
    made = tokenizer([" ".join(said)])
    assert made.tokenize(" ".join(said)) == [word + WORD_END for word in said]


def test_other_words_fall_into_pieces_and_nothing_is_unknown():
    made = tokenizer(CAPTIONS)
    assert made.tokenize("SNEAKERS") == ["sneakers" + WORD_END]
    assert made.tokenize("zq") == ["z", "q" + WORD_END]
    every = made("".join(map(chr, range(33, 500))) + " 靴").input_ids
    assert made.eos_token_id not in every[1:-1]
    assert sorted(made.get_vocab().values()) == list(range(len(made)))
    assert made.decode(made(CAPTIONS[1]).input_ids, skip_special_tokens=True) == CAPTIONS[1]


def test_it_is_read_again_as_it_was_by_plain_transformers(tmp_path):
    made = tokenizer(CAPTIONS)
    made.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again(CAPTIONS, padding="max_length").input_ids == made(CAPTIONS, padding="max_length").input_ids
    assert again.model_max_length == words.LENGTH


def test_the_same_captions_give_the_same_tokens_in_another_process():
    """tokenizers' own trainer breaks ties by chance: its merges differ from process to process."""
    program = (
        "import json\nfrom erasediff.families.vocabulary import tokenizer\n"
        f"print('VOCAB', json.dumps(tokenizer({CAPTIONS!r}).get_vocab(), sort_keys=True))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.partition("VOCAB ")[2]) == tokenizer(CAPTIONS).get_vocab()


def test_a_full_vocabulary_keeps_the_frequent_words_whole(monkeypatch):
    alphabet = len(tokenizer(["a"]))
    monkeypatch.setattr(words, "VOCABULARY", alphabet + 2)
    made = tokenizer(["cat cat dog"])
    assert len(made) == alphabet + 2
    assert made.tokenize("cat dog") == ["cat" + WORD_END, "d", "o", "g" + WORD_END]


def test_longer_captions_make_a_longer_text_and_too_long_ones_are_named():
    assert tokenizer(["a " * 40]).model_max_length == 42
    with pytest.raises(BadInput, match=r"caption 'a a .* has 92 tokens .* takes 77; shorten it"):
        tokenizer(["short", ("a " * 90).strip()])


def test_words_that_share_letters_are_near_and_others_are_not():
    """cos = shared / sqrt(n m): sneaker has 7 trigrams and itself, sneakers one more of each, 6 in common."""
    tokens = [word + WORD_END for word in ("sneaker", "sneakers", "boot", "bag")]
    rows = lettered(tokens, width=4096, seed=0)
    near = F.cosine_similarity(rows[:1], rows)
    assert near[1].item() == pytest.approx(6 / (8 * 9) ** 0.5, abs=0.05)
    assert near[2:].abs().max().item() < 0.05
    assert rows.var(1).tolist() == pytest.approx([1] * 4, abs=0.1)
    assert not torch.equal(rows, lettered(tokens, width=4096, seed=1))


def test_the_encoder_tells_all_captions_apart():
    made = tokenizer(CAPTIONS)
    torch.manual_seed(0)
    encoder = text_encoder(made, width=32, seed=0)
    ids = made(CAPTIONS, padding="max_length", return_tensors="pt").input_ids
    said = encoder(ids)[0].detach().flatten(1)
    assert torch.pdist(said).min() > 1
