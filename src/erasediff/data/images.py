"""Labelled images in memory, and which of them are held out.

A fixed part of all data is held out: nothing is trained on it, so that judges and attacks can be tested on it. Where
the data do not say which, every class gives up one sample in five.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from erasediff.errors import BadInput

EVERY = 5  # one sample in so many is held out


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Labelled images in memory. ``images``: uint8 [N, C, H, W]; ``labels``: int64 [N] or None; ``held_out``: [N].

    ``meant``: targets whose classes are not to be read off the names, as text, with the numbers of their classes.
    """

    spec: str
    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    held_out: Tensor
    meant: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    def fingerprint(self) -> str:
        """SHA-256 over images and labels, in order."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def floats(self, indices: Tensor) -> Tensor:
        """Images [n, C, H, W] in [-1, 1]."""
        return as_floats(self.images[indices])


def as_floats(images: Tensor) -> Tensor:
    """uint8 images in 0..255 -> float32 in [-1, 1], on the device they are on."""
    return images.float() / 127.5 - 1


def as_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8 in 0..255, rounded; what is outside is clamped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def build(
    spec: str,
    images: np.ndarray,
    labels: np.ndarray | None,
    *,
    class_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    held_out: np.ndarray | None = None,
) -> ImageData:
    """Check arrays of images [N, H, W] or [N, H, W, C] uint8 and labels [N], and hold a part out. Raises BadInput."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise BadInput(
            f"{spec}: images must be uint8 [N, H, W] or [N, H, W, C] with N > 0, got {images.dtype} {images.shape}"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    classes: Tensor | None = None
    if labels is not None:
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise BadInput(f"{spec}: labels must be integers [{len(images)}], got {labels.dtype} {labels.shape}")
        if labels.min() < 0 or (class_names is not None and labels.max() >= len(class_names)):
            top = f" and {len(class_names) - 1}" if class_names is not None else ""
            raise BadInput(f"{spec}: labels must lie between 0{top}, got {labels.min()} to {labels.max()}")
        classes = torch.from_numpy(labels.astype(np.int64))
        class_names = class_names or [str(c) for c in range(int(labels.max()) + 1)]
    mask = torch.from_numpy(held_out) if held_out is not None else hold_out(len(images), classes)
    listed = tuple(names) if names is not None else tuple(str(i) for i in range(len(images)))
    return ImageData(
        spec=spec, images=tensor, labels=classes, class_names=tuple(class_names or ()), names=listed, held_out=mask
    )


def hold_out(count: int, labels: Tensor | None) -> Tensor:
    """Every fifth sample of each class, spread evenly over the order of the data; a function of the data alone."""
    mask = torch.zeros(count, dtype=torch.bool)
    groups = [torch.arange(count)] if labels is None else [(labels == c).nonzero()[:, 0] for c in labels.unique()]
    for group in groups:
        mask[group[EVERY - 1 :: EVERY]] = True
    return mask
