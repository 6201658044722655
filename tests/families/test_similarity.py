"""Which prompts are alike: properties of the measure, on embeddings made by hand."""

import pytest
import torch

from erasediff.families.prompts import PromptTable
from erasediff.families.similarity import nearest_prompts, similarities

NAMES = ("hat", "cap", "dog", "cat", "")


@pytest.fixture
def table():
    """Two pairs of like prompts, all in one common direction that says nothing."""
    draw = torch.Generator().manual_seed(0)
    hat, dog = torch.randn(7, 16, generator=draw), torch.randn(7, 16, generator=draw)
    noise = [0.1 * torch.randn(7, 16, generator=draw) for _ in range(5)]
    rows = torch.stack([hat, hat, dog, dog, torch.zeros(7, 16)]) + torch.stack(noise) + 100
    return PromptTable(NAMES, {"encoder_hidden_states": rows, "pooled": rows.mean(1)})


def test_likeness_is_a_cosine_symmetric_and_one_with_oneself(table):
    square = torch.stack([similarities(table, NAMES, name) for name in NAMES])
    assert torch.allclose(square, square.T)
    assert torch.allclose(square.diagonal(), torch.ones(5, dtype=torch.double))
    assert square.abs().max() <= 1 + 1e-9


def test_like_prompts_are_found_though_all_share_a_direction(table):
    assert similarities(table, ["cap"], "hat") > 0.5 > similarities(table, ["dog"], "hat")
    assert nearest_prompts(table, ["dog", "cat", "cap"], ["hat"], 1) == ["cap"]
    assert set(nearest_prompts(table, ["cat", "cap"], ["hat", "dog"], 2)) == {"cap", "cat"}
    assert nearest_prompts(table, ["dog", "cap"], ["hat"], 5) == ["cap", "dog"]
