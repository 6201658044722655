"""Images through the autoencoder of a video model: an image is a video of one frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from erasediff.families.latents import AT_ONCE, Latents


@dataclass(frozen=True, eq=False)
class OneFrame(Latents):
    """A causal 3D VAE (Qwen-Image, arXiv:2508.02324, sec. 2.3), whose first frame depends on no other.

    ``x_0 = (z - latents_mean) / latents_std``, channel by channel.
    """

    @property
    def factor(self) -> int:
        return int(2 ** len(self.vae.config.temperal_downsample))

    def image_shape(self, cells: int) -> tuple[int, int, int]:
        return self.vae.config.get("input_channels", 3), cells * self.factor, cells * self.factor

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        _, height, width = image_shape
        return self.vae.config.z_dim, height // self.factor, width // self.factor

    @torch.no_grad()
    def _posteriors(self, images: Tensor) -> list[Any]:
        vae, rows = self._beside(images), max(1, AT_ONCE // images.shape[-2:].numel())
        parts = [vae.encode(part.to(vae.dtype)[:, :, None]).latent_dist for part in images.split(rows)]
        return [DiagonalGaussianDistribution(part.parameters[:, :, 0]) for part in parts]

    def decode(self, x_0: Tensor) -> Tensor:
        vae, (mean, scale) = self._beside(x_0), self._affine(x_0)
        rows = max(1, AT_ONCE // (x_0.shape[-2:].numel() * self.factor**2))
        z = (x_0 / scale + mean)[:, :, None]
        parts = [vae.decode(part.to(vae.dtype)).sample[:, :, 0] for part in z.split(rows)]
        return torch.cat(parts).to(x_0.dtype).clamp(-1, 1)

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, deviation = (like.new_tensor(v)[:, None, None] for v in (config.latents_mean, config.latents_std))
        return mean, 1 / deviation
