"""Images to latents and back through a frozen VAE, for every family that diffuses in latent space.

``x_0 = (z - shift) * scale`` (Rombach et al. 2022, arXiv:2112.10752, sec. 4.3.2 and D.1), where z is the mean of the
VAE's posterior: the mean and not a draw, so that the same image is always the same ``x_0``. Shift and scale are the
VAE's ``shift_factor`` and ``scaling_factor``, or by channel its ``latents_mean`` and ``scaling_factor / latents_std``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from erasediff.errors import BadInput

AT_ONCE = 2**20  # most pixels that pass through a VAE at a time: 16 images of 256 x 256


@dataclass(frozen=True, eq=False)
class Latents:
    """A frozen VAE in evaluation mode, which follows its inputs from device to device.

    Nothing trains it, so a deep copy of a model shares it.
    """

    vae: Any

    @classmethod
    def of(cls, vae: Any) -> Latents:
        """Freeze ``vae`` (this object, not a copy). Raises BadInput for one whose images are not as it takes them."""
        config = vae.config
        if config.in_channels != config.out_channels:
            raise BadInput(
                f"the VAE reads images of {config.in_channels} channels and draws images of {config.out_channels}; "
                "needed is one that draws what it reads"
            )
        return cls(vae.eval().requires_grad_(False))

    def __deepcopy__(self, memo: dict[int, Any]) -> Latents:
        return self

    @property
    def factor(self) -> int:
        """Pixels, in each direction, to a latent cell."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def image_shape(self, cells: int) -> tuple[int, int, int]:
        """[C, H, W] of the images whose latents have ``cells`` x ``cells`` cells."""
        return self.vae.config.in_channels, cells * self.factor, cells * self.factor

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """[c, h, w] of the latents of images [C, H, W]."""
        _, height, width = image_shape
        return self.vae.config.latent_channels, height // self.factor, width // self.factor

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] -> latents [B, c, h, w], without a graph, in the dtype of ``images``."""
        shift, scale = self._affine(images)
        return (torch.cat([d.mode() for d in self._posteriors(images)]).to(images.dtype) - shift) * scale

    def moments(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> mean and standard deviation of each latent's posterior [B, 2, c, h, w], float32.

        The mean is what :meth:`encode` gives.
        """
        shift, scale = self._affine(images)
        found = self._posteriors(images)
        mean = (torch.cat([d.mode() for d in found]).to(images.dtype) - shift) * scale
        return torch.stack([mean, torch.cat([d.std for d in found]).to(images.dtype) * scale], 1)

    @torch.no_grad()
    def _posteriors(self, images: Tensor) -> list[Any]:
        """What the VAE says of ``images``, as many at a time as memory allows."""
        vae, rows = self._beside(images), max(1, AT_ONCE // images.shape[-2:].numel())
        return [vae.encode(part.to(vae.dtype)).latent_dist for part in images.split(rows)]

    def rest(self) -> None:
        """Leave the accelerator: nothing is encoded or drawn for a while. The next call comes back by itself."""
        self.vae.to("cpu")

    def decode(self, x_0: Tensor) -> Tensor:
        """Latents [B, c, h, w] -> images [B, C, H, W] clamped to [-1, 1], in the dtype of ``x_0``."""
        vae, (shift, scale) = self._beside(x_0), self._affine(x_0)
        rows = max(1, AT_ONCE // (x_0.shape[-2:].numel() * self.factor**2))
        parts = [vae.decode(part.to(vae.dtype)).sample for part in (x_0 / scale + shift).split(rows)]
        return torch.cat(parts).to(x_0.dtype).clamp(-1, 1)

    def _affine(self, like: Tensor) -> tuple[float | Tensor, float | Tensor]:
        config = self.vae.config
        shift, scale = config.get("shift_factor") or 0.0, config.scaling_factor
        mean, deviation = config.get("latents_mean"), config.get("latents_std")
        if mean is None or deviation is None:
            return shift, scale
        by_channel = [like.new_tensor(values)[:, None, None] for values in (mean, deviation)]
        return by_channel[0], scale / by_channel[1]

    def _beside(self, given: Tensor) -> Any:
        if next(self.vae.parameters()).device != given.device:
            self.vae.to(given.device)
        return self.vae
