"""Endless pairs of forget and retain batches, a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from erasediff.data.encoded import Encoded
from erasediff.data.images import ImageData, as_floats
from erasediff.errors import BadInput
from erasediff.randomness import generator


@dataclass(frozen=True)
class Batch:
    """Some rows of a batch. ``images``: [b, C, H, W] in [-1, 1]; ``labels``, ``index``: [b].

    ``encoded``: the latents' mean and standard deviation [b, 2, c, h, w], where they were computed before.
    ``start`` and ``total`` say which rows of the whole batch these are: random draws are made for the whole batch
    and sliced, so that micro-batches and processes see the noise that one big batch would have seen.
    """

    images: Tensor
    labels: Tensor | None
    index: Tensor
    role: str
    start: int
    total: int
    encoded: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def split(self, size: int) -> Iterator[Batch]:
        """Micro-batches of at most ``size`` rows."""
        for first in range(0, len(self), size):
            rows = slice(first, first + size)
            yield replace(
                self,
                images=self.images[rows],
                labels=None if self.labels is None else self.labels[rows],
                index=self.index[rows],
                encoded=None if self.encoded is None else self.encoded[rows],
                start=self.start + first,
            )

    def showing(self, images: Tensor) -> Batch:
        """The same rows with other ``images`` [b, C, H, W]."""
        return replace(self, images=images, encoded=None)


@dataclass(frozen=True)
class Pair:
    """One step's batches; ``forgotten`` is ``None`` where nothing is to be forgotten (plain training)."""

    retain: Batch
    forgotten: Batch | None

    @property
    def forget(self) -> Batch:
        """The forget batch. Raises BadInput where nothing is to be forgotten."""
        if self.forgotten is None:
            raise BadInput("this method needs a forget set, and none was given")
        return self.forgotten


class Rows:
    """The rows of each step: epoch after epoch, each a fresh permutation seeded by (seed, epoch, role)."""

    def __init__(self, indices: Tensor, batch_size: int, seed: int, role: str) -> None:
        self.indices, self.batch_size, self.seed, self.role = indices, batch_size, seed, role
        self._epoch = (-1, indices)

    def at(self, step: int) -> Tensor:
        """Data indices [batch_size] of one step; a batch that crosses the end of an epoch goes on in the next."""
        size, position = len(self.indices), step * self.batch_size
        rows: list[int] = []
        while len(rows) < self.batch_size:
            epoch, offset = divmod(position, size)
            taken = self._permuted(epoch)[offset : offset + self.batch_size - len(rows)].tolist()
            rows += taken
            position += len(taken)
        return torch.tensor(rows)

    def _permuted(self, epoch: int) -> Tensor:
        if self._epoch[0] != epoch:
            order = torch.randperm(len(self.indices), generator=generator(self.seed, epoch, f"order/{self.role}"))
            self._epoch = (epoch, self.indices[order])
        return self._epoch[1]


class Pairs:
    """``pairs.at(step)`` is the pair of that step: nothing to save, nothing to restore.

    Each process of ``world`` takes its ``rank``-th share of the rows of the one global batch. ``forget_batch_size``:
    samples of a forget batch, by default ``batch_size``. ``encoded``: latents of the images, where the model works in
    latents.
    """

    def __init__(
        self,
        data: ImageData,
        retain: Tensor,
        forget: Tensor | None,
        *,
        batch_size: int,
        forget_batch_size: int | None = None,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        encoded: Encoded | None = None,
    ) -> None:
        self.data, self.device, self.rank, self.world = data, device, rank, world
        self.encoded = encoded
        self.batch_size = batch_size
        self.retain = Rows(retain, batch_size * world, seed, "retain")
        size = forget_batch_size or batch_size
        self.forget = None if forget is None else Rows(forget, size * world, seed, "forget")

    def at(self, step: int) -> Pair:
        forget = None if self.forget is None else self._batch(self.forget, step)
        return Pair(retain=self._batch(self.retain, step), forgotten=forget)

    def _batch(self, rows: Rows, step: int) -> Batch:
        share = rows.batch_size // self.world
        start = self.rank * share
        index = rows.at(step)[start : start + share]
        labels = None if self.data.labels is None else self.data.labels[index].to(self.device)
        images = as_floats(self.data.images[index].to(self.device))  # a quarter of the bytes travels
        encoded = None if self.encoded is None else self.encoded.at(index).to(self.device)
        return Batch(images, labels, index, rows.role, start, rows.batch_size, encoded)
