"""A search over real tokens: the gradient proposes swaps of single tokens, and what is better is kept.

To first order a swap of token u for v at place k changes a loss by g_k (e_v - e_u), with g the gradient by the token
vectors e (HotFlip, Ebrahimi et al. 2018, arXiv:1712.06751). Of the swaps that promise most at each place some
are drawn and tried (Zou et al. 2023, arXiv:2307.15043, alg. 1). The gradient is that of a new batch at every step; what
is kept is decided on one fixed batch, so that the search never ends worse than it began.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from erasediff.families.base import TextReader
from erasediff.randomness import generator

Tokens = tuple[int, ...]
Objective = Callable[[Tensor, int | None], Tensor]
"""Vectors [K, D] in the place of K tokens, and a step -> the loss on that step's batch, or on the fixed one (None)."""


@dataclass(frozen=True)
class Swapped:
    """The tokens that a search ended with, and the loss on the fixed batch at its start and its end."""

    tokens: Tokens
    loss_before: float
    loss_after: float


def search(
    reader: TextReader,
    start: Tokens,
    objective: Objective,
    *,
    spelled: Callable[[Tokens], bool],
    steps: int,
    candidates: int,
    seed: int,
    purpose: str,
) -> Swapped:
    """``steps`` times try ``candidates`` swaps of single tokens for others that are ``spelled``; no text twice."""
    begun = float(_judged(reader, objective, start))
    tokens, least, seen = start, begun, {start}
    for step in range(steps):
        vectors = reader.vectors[list(tokens)].clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(vectors, step), [vectors])
        drawn = generator(seed, step, purpose)
        for swap in proposals(reader, tokens, gradient, seen, spelled, candidates, drawn):
            seen.add(swap)
            loss = float(_judged(reader, objective, swap))
            if loss < least:
                tokens, least = swap, loss
    return Swapped(tokens, begun, least)


def proposals(
    reader: TextReader,
    tokens: Tokens,
    gradient: Tensor,
    seen: set[Tokens],
    spelled: Callable[[Tokens], bool],
    count: int,
    drawn: torch.Generator,
) -> list[Tokens]:
    """Up to ``count`` swaps, drawn from the ``count`` most promising of each place. ``gradient``: [K, D]."""
    table, words = reader.vectors, reader.words.to(gradient.device)
    change = gradient @ table[words].T - (gradient * table[list(tokens)]).sum(-1, keepdim=True)
    promising = words[change.topk(min(count, len(words)), largest=False).indices].flatten().tolist()
    found: list[Tokens] = []
    for place in torch.randperm(len(promising), generator=drawn).tolist():
        k = place // (len(promising) // len(tokens))
        swap = (*tokens[:k], promising[place], *tokens[k + 1 :])
        if swap not in seen and swap not in found and spelled(swap):
            found.append(swap)
        if len(found) == count:
            break
    return found


@torch.no_grad()
def _judged(reader: TextReader, objective: Objective, tokens: Tokens) -> Tensor:
    return objective(reader.vectors[list(tokens)], None)
