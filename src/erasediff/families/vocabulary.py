"""A tokenizer and a text encoder made from nothing but captions: what an untrained model is asked through.

The tokenizer is CLIP's, its byte pairs merged until each word of the captions is one token; other words fall into
pieces, down to bytes, so that any prompt can be asked. The text encoder is a small CLIPTextModel that stays as drawn.
Its token embeddings are sums over the trigrams of letters (Bojanowski et al. 2017, arXiv:1607.04606, sec. 3.2), so that
words that are written alike, as a plural and its singular, say almost the same, and others do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from erasediff.errors import BadInput
from erasediff.randomness import generator

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
VOCABULARY = 49_408  # tokens at most, as in CLIP
LENGTH, LONGEST = 32, 77  # tokens of a prompt: by default, and at most where captions need more (CLIP's)


def tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """A tokenizer to which every word of ``captions`` is one token. Raises BadInput for a caption above 77 tokens.

    Of more words than CLIP's vocabulary holds, the frequent ones are whole and the others in pieces.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet = [*letters, *(letter + WORD_END for letter in letters)]
    blank = _clip(alphabet, []).backend_tokenizer
    said = (blank.pre_tokenizer.pre_tokenize_str(blank.normalizer.normalize_str(caption)) for caption in captions)
    merges = _merges(Counter(word for pieces in said for word, _ in pieces), VOCABULARY - len(alphabet) - 2)
    made = _clip([*alphabet, *dict.fromkeys(map("".join, merges))], merges)
    lengths = [len(ids) for ids in made(list(captions), verbose=False).input_ids]
    if max(lengths) > LONGEST:
        longest = captions[lengths.index(max(lengths))]
        raise BadInput(
            f"caption {longest!r} has {max(lengths)} tokens with start and end, and would be cut: the text encoder "
            f"takes {LONGEST}; shorten it"
        )
    made.model_max_length = max(LENGTH, *lengths)
    return made


def _merges(words: Counter[str], most: int) -> list[tuple[str, str]]:
    """Byte pairs that make one token of each word, frequent words first, at most ``most`` of them.

    Not those of tokenizers' own trainer: it breaks ties by chance, and the same captions would not give the same model.
    A later pair ranks below all earlier ones, so a word that was whole stays whole.
    """
    rank: dict[tuple[str, str], int] = {}
    for word in sorted(words, key=lambda w: (-words[w], w)):
        pieces = _pieces(word, rank)
        while len(pieces) > 1:
            if len(rank) == most:
                return list(rank)
            rank[pieces[0], pieces[1]] = len(rank)
            pieces = _pieces(word, rank)
    return list(rank)


def _pieces(word: str, rank: Mapping[tuple[str, str], int]) -> list[str]:
    """``word`` as byte-pair encoding leaves it: of all neighbours the pair of the lowest rank is joined first."""
    pieces = [*word[:-1], word[-1] + WORD_END]
    while found := [(rank[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in rank]:
        i = min(found)[1]
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces


def _clip(tokens: Sequence[str], merges: Any) -> CLIPTokenizer:
    vocabulary = {token: row for row, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def text_encoder(words: CLIPTokenizer, *, width: int, seed: int) -> CLIPTextModel:
    """An untrained text encoder for ``words``, ``width`` wide; drawn from torch's global generator and ``seed``."""
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=words.model_max_length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    encoder: Any = CLIPTextModel(config)
    tokens = sorted(words.get_vocab().items(), key=lambda item: item[1])
    with torch.no_grad():
        encoder.get_input_embeddings().weight.copy_(lettered([token for token, _ in tokens], width=width, seed=seed))
    made: CLIPTextModel = encoder.eval()
    return made


def lettered(tokens: Sequence[str], *, width: int, seed: int) -> Tensor:
    """Embeddings [len(tokens), width] of unit variance: each the scaled sum of its trigrams' and its own vector.

    Two tokens agree as far as they share trigrams: cos = shared / sqrt(n m) for tokens of n and m parts.
    """

    @cache
    def vector(part: str) -> Tensor:
        return torch.randn(width, generator=generator(seed, 0, f"letters/{part}"))

    def embedding(token: str) -> Tensor:
        parts = _parts(token)
        return torch.stack([vector(part) for part in parts]).sum(0) / len(parts) ** 0.5

    return torch.stack([embedding(token) for token in tokens])


def _parts(token: str) -> list[str]:
    """``cat</w>`` -> ``<ca``, ``cat``, ``at>`` and the token itself; start and end of text are no words."""
    if token in (START, END):
        return [token]
    framed = "<" + (token.removesuffix(WORD_END) + ">" if token.endswith(WORD_END) else token)
    return [*dict.fromkeys(framed[i : i + 3] for i in range(max(1, len(framed) - 2))), f"token {token}"]
