"""Latents in normalised patches: what FLUX.2 diffuses.

A patch is a square of 2 x 2 latents, ``x_0 = (z - mean) / sqrt(var + eps)``. Mean and variance are those that the
autoencoder's batch norm (Ioffe and Szegedy 2015, arXiv:1502.03167) counted in training, one of each for the four
places of each channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from erasediff.families.latents import Latents


@dataclass(frozen=True, eq=False)
class PatchLatents(Latents):
    """An AutoencoderKLFlux2; see :class:`erasediff.families.latents.Latents`. Latents [B, 4 c, h / 2, w / 2]."""

    @property
    def factor(self) -> int:
        """Pixels, in each direction, to a patch."""
        return 2 * super().factor

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        channels, height, width = super().shape(image_shape)
        return 4 * channels, height, width

    def encode(self, images: Tensor) -> Tensor:
        mean, deviation = self._statistics(images)
        return (pixel_unshuffle(super().encode(images), 2) - mean) / deviation

    def moments(self, images: Tensor) -> Tensor:
        mean, deviation = self._statistics(images)
        found = pixel_unshuffle(super().moments(images), 2)
        return torch.stack([(found[:, 0] - mean) / deviation, found[:, 1] / deviation], 1)

    def decode(self, x_0: Tensor) -> Tensor:
        mean, deviation = self._statistics(x_0)
        return super().decode(pixel_shuffle(x_0 * deviation + mean, 2))

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the patches [4 c, 1, 1]."""
        norm, eps = self.vae.bn, self.vae.config.batch_norm_eps
        mean, deviation = (
            found.to(like)[:, None, None] for found in (norm.running_mean, (norm.running_var + eps).sqrt())
        )
        return mean, deviation

    def _affine(self, like: Tensor) -> tuple[float | Tensor, float | Tensor]:  # noqa: ARG002
        return 0.0, 1.0  # all of it is done in patches
