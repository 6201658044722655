"""Images to latents and back through a frozen VAE, for every family that diffuses in latent space.

``x_0 = (z - shift_factor) * scaling_factor`` (Rombach et al. 2022, arXiv:2112.10752, sec. 4.3.2 and D.1), where z is
the mean of the VAE's posterior: the mean and not a draw, so that the same image is always the same ``x_0``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erasediff.errors import BadInput, listing
from erasediff.files import read_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
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

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] -> latents [B, c, h, w], without a graph, in the dtype of ``images``."""
        vae, (shift, scale) = self._beside(images), self._affine()
        rows = max(1, AT_ONCE // images.shape[-2:].numel())
        with torch.no_grad():
            parts = [vae.encode(part.to(vae.dtype)).latent_dist.mode() for part in images.split(rows)]
            return (torch.cat(parts).to(images.dtype) - shift) * scale

    def moments(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> mean and standard deviation of each latent's posterior [B, 2, c, h, w], float32.

        The mean is what :meth:`encode` gives.
        """
        vae, (shift, scale) = self._beside(images), self._affine()
        rows = max(1, AT_ONCE // images.shape[-2:].numel())
        with torch.no_grad():
            found = [vae.encode(part.to(vae.dtype)).latent_dist for part in images.split(rows)]
            mean = (torch.cat([d.mode() for d in found]).to(images.dtype) - shift) * scale
            return torch.stack([mean, torch.cat([d.std for d in found]).to(images.dtype) * scale], 1)

    def rest(self) -> None:
        """Leave the accelerator: nothing is encoded or drawn for a while. The next call comes back by itself."""
        self.vae.to("cpu")

    def decode(self, x_0: Tensor) -> Tensor:
        """Latents [B, c, h, w] -> images [B, C, H, W] clamped to [-1, 1], in the dtype of ``x_0``."""
        vae, (shift, scale) = self._beside(x_0), self._affine()
        rows = max(1, AT_ONCE // (x_0.shape[-2:].numel() * self.factor**2))
        parts = [vae.decode(part.to(vae.dtype)).sample for part in (x_0 / scale + shift).split(rows)]
        return torch.cat(parts).to(x_0.dtype).clamp(-1, 1)

    def _affine(self) -> tuple[float, float]:
        return self.vae.config.get("shift_factor") or 0.0, self.vae.config.scaling_factor

    def _beside(self, given: Tensor) -> Any:
        if next(self.vae.parameters()).device != given.device:
            self.vae.to(given.device)
        return self.vae


def read_part(directory: Path, part: str, kind: Any, *, also: tuple[str, ...] = ()) -> Any:
    """The module in ``directory/part``, of the diffusers class ``kind``, in evaluation mode and float32.

    ``also`` names the classes under which older directories call the same module. Raises BadInput for what is missing,
    of another class, unreadable, incomplete or not finite. Weights must be safetensors; no code is run.
    """
    folder, allowed = directory / part, (kind.__name__, *also)
    for needed in (folder / "config.json", folder / WEIGHTS):
        if not needed.exists():
            raise BadInput(f"{directory} is not a complete pipeline: {needed.relative_to(directory)} is missing")
    config = read_json(folder / "config.json")
    found = config.get("_class_name") if isinstance(config, dict) else None
    if found not in allowed:
        raise BadInput(f"{folder} holds a {found}; needed is {listing(allowed)}: use a directory that diffusers wrote")
    try:
        module, info = kind.from_pretrained(
            folder, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise BadInput(f"{folder} cannot be read as {kind.__name__}: {first_line(error)}") from error
    # diffusers draws what the file lacks at random, and only logs that it did.
    if info["missing_keys"]:
        raise BadInput(f"{folder / WEIGHTS} lacks weights of a {kind.__name__}: {sorted(info['missing_keys'])[0]}, ...")
    broken = [n for n, p in module.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        raise BadInput(f"{folder} holds weights that are not finite (NaN or infinity), first in {broken[0]}")
    return module.eval()


def first_line(error: Exception) -> str:
    """An error of another library in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
