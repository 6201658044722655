"""Latents of a run's images: encoded once before the first step and kept beside the run; then the autoencoder rests."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from erasediff.api.directory import CACHE
from erasediff.data.encoded import Encoded, encoded
from erasediff.data.images import ImageData
from erasediff.families.base import InLatents, Model
from erasediff.training.processes import Processes

LATENTS = Path(CACHE) / "latents"


def latents_of(
    model: Model, data: ImageData, indices: Tensor, place: Path | None, processes: Processes, *, quiet: bool
) -> Encoded | None:
    """What the model's autoencoder makes of the images ``indices``; ``None`` for a model that works in pixels.

    ``place``: the directory for the files; without it, and on processes that wait for the first one's, in memory.
    """
    if not isinstance(model, InLatents):
        return None
    latents = model.latents

    def encode(images: Tensor) -> Tensor:
        found: Tensor = latents.moments(images.to(processes.device))
        return found

    def make() -> Encoded:
        with tqdm(total=len(indices.unique()), desc="latents", unit="image", disable=quiet) as bar:
            return encoded(data, indices, encode, key=_key(model), place=place, on_batch=bar.update)

    found = make() if processes.is_main else None
    processes.wait()
    if found is None:  # the others read what the first one wrote
        quiet, found = True, make()
    latents.rest()
    return found


def _key(model: Model) -> str:
    """What the autoencoder makes of one image stands for its weights."""
    device = next(model.denoiser.parameters()).device
    probe = torch.linspace(-1, 1, math.prod(model.image_shape)).reshape(1, *model.image_shape).to(device)
    moments = model.latents.moments(probe)  # type: ignore[attr-defined]
    return hashlib.sha256(moments.cpu().numpy().tobytes()).hexdigest()
