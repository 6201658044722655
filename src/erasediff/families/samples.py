"""A function of one sample, applied to every sample of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from erasediff.families.base import Model

Dims = tuple[int | None, ...]
GRADIENTS = 2**28  # most numbers that the gradients of single samples may hold at a time: 1 GiB in fp32


def each(model: Model, one: Callable[..., Any], dims: Dims) -> Callable[..., Any]:
    """``one``, which asks ``model`` of one sample, as a function of a batch: of tensors [B, ...], or tables of such.

    ``dims``: 0 for every argument that is given sample by sample, ``None`` for one that all share. Samples are mapped
    (:func:`torch.func.vmap`), or taken one after the other where each is asked at a length of its own.
    """
    return _in_turn(one, dims) if getattr(model, "RAGGED", False) else vmap(one, dims, randomness="different")


def at_once(weights: Iterable[Tensor], most: int) -> int:
    """Of how many samples the own gradients are to be held at a time: at least one, at most ``most``."""
    return max(1, min(most, GRADIENTS // sum(weight.numel() for weight in weights)))


def _in_turn(one: Callable[..., Any], dims: Dims) -> Callable[..., Any]:
    def every(*given: Any) -> Any:
        first = next(value for value, dim in zip(given, dims, strict=True) if dim == 0)
        count = len(next(iter(first.values())) if isinstance(first, dict) else first)
        rows = [[v if dim is None else _row(v, i) for v, dim in zip(given, dims, strict=True)] for i in range(count)]
        found = [one(*row) for row in rows]
        if isinstance(found[0], dict):
            return {name: torch.stack([said[name] for said in found]) for name in found[0]}
        return torch.stack(found)

    return every


def _row(value: Tensor | dict[str, Tensor], i: int) -> Any:
    return {name: tensor[i] for name, tensor in value.items()} if isinstance(value, dict) else value[i]
