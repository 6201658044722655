"""Which prompts are like another, as the model's own text encoder sees them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erasediff.families.prompts import PromptTable


def similarities(table: PromptTable, prompts: Sequence[str], to: str) -> Tensor:
    """How alike each of ``prompts`` [P] is to ``to``: a cosine in [-1, 1], the mean over the table's tensors.

    Of a tensor [P, L, D] the mean over tokens counts. The mean over all prompts of the table is subtracted first:
    text embeddings share a direction that says nothing, so that without it all prompts look alike.
    """
    rows, own = [table.index(p) for p in prompts], table.index(to)
    found = []
    for tensor in table.embeddings.values():
        vectors = tensor.double().flatten(1) if tensor.dim() < 3 else tensor.double().flatten(1, -2).mean(1)
        vectors = vectors - vectors.mean(0)
        found.append(torch.cosine_similarity(vectors[rows], vectors[own], dim=1))
    return torch.stack(found).mean(0)


def nearest_prompts(table: PromptTable, prompts: Sequence[str], to: Sequence[str], count: int) -> list[str]:
    """The ``count`` of ``prompts`` that are most like any of ``to``, the most alike first."""
    best = torch.stack([similarities(table, prompts, text) for text in to]).amax(0)
    order = torch.argsort(best, descending=True, stable=True)[:count]
    return [prompts[i] for i in order.tolist()]
