"""What an autoencoder makes of the images of a run, computed once: while training, nothing asks it again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from erasediff.data.images import ImageData
from erasediff.errors import BadInput
from erasediff.files import read_json, writable, write_json

MOMENTS, RECORD = "latents.npy", "latents.json"
CHUNK = 64  # images that are encoded between two writes

Encode = Callable[[Tensor], Tensor]
"""Images [b, C, H, W] in [-1, 1] -> mean and standard deviation of each latent [b, 2, c, h, w]."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Latents of some images. ``moments`` [n, 2, c, h, w]: mean and standard deviation, in memory or mapped from disk.

    ``row`` [N]: where in ``moments`` a data index stands, -1 for one that was not encoded.
    """

    moments: Tensor
    row: Tensor

    def at(self, index: Tensor) -> Tensor:
        """The moments [b, 2, c, h, w] of data indices [b]. Raises BadInput for an image that was not encoded."""
        rows = self.row[index.to(self.row.device)]
        if bool((rows < 0).any()):
            raise BadInput("an image was asked for that belongs neither to the forget set nor to the retain set")
        return self.moments[rows]


def encoded(
    data: ImageData,
    indices: Tensor,
    encode: Encode,
    *,
    key: str,
    place: Path | None = None,
    on_batch: Callable[[int], object] = lambda count: None,
) -> Encoded:
    """Encode the images ``indices`` of ``data``: into memory, or into files in ``place`` that outlive the call.

    ``key``: what the latents depend on besides the images. Files of the same images and key are read, not made anew; a
    half-written set is begun again. float32, so that what was cached is what would have been computed.
    """
    index = indices.unique()
    row = torch.full((len(data),), -1).scatter_(0, index, torch.arange(len(index)))
    asked = {"key": key, "data": data.fingerprint(), "images": hashlib.sha256(index.numpy().tobytes()).hexdigest()}
    if place is not None and (place / RECORD).is_file() and read_json(place / RECORD) == asked:
        on_batch(len(index))
        return Encoded(_mapped(place), row)
    shape = encode(data.floats(index[:1])).shape[1:]
    if place is None:
        made = torch.empty(len(index), *shape)
        _fill(made.numpy(), data, index, encode, on_batch)
        return Encoded(made, row)
    with writable(place):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        stored = np.lib.format.open_memmap(place / MOMENTS, "w+", np.float32, (len(index), *shape))
        _fill(stored, data, index, encode, on_batch)
        stored.flush()
    write_json(place / RECORD, asked)
    return Encoded(_mapped(place), row)


def _fill(into: np.ndarray, data: ImageData, index: Tensor, encode: Encode, on_batch: Callable[[int], object]) -> None:
    for first in range(0, len(index), CHUNK):
        rows = index[first : first + CHUNK]
        into[first : first + len(rows)] = encode(data.floats(rows)).float().cpu().numpy()
        on_batch(len(rows))


def _mapped(place: Path) -> Tensor:
    # Copy on write: torch wants memory that may be written, and nobody writes it.
    return torch.from_numpy(np.load(place / MOMENTS, mmap_mode="c", allow_pickle=False))
