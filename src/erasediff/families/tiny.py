"""A miniature of each family, built in memory from a configuration: nothing is downloaded, nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from erasediff.families.unet2d import UNet2D, fresh

if TYPE_CHECKING:
    from erasediff.families.dit import DiT


def unet2d(*, prediction_type: str = "epsilon", classes: int = 4, seed: int = 0, dropout: float = 0.0) -> UNet2D:
    """A UNet2DModel of about 20,000 weights for 8 x 8 grey images; ``classes=0`` makes it unconditional."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = fresh(
            (1, 8, 8),
            [str(c) for c in range(classes)],
            block_out_channels=(8, 8),
            prediction_type=prediction_type,
            dropout=dropout,
            num_train_timesteps=100,
        )
    model.denoiser.eval()
    return model


def dit(*, channels: int = 1, classes: int = 4, seed: int = 0, learned_sigma: bool = True) -> DiT:
    """A DiTTransformer2DModel of about 20,000 weights for 8 x 8 images, in latents of 2 x 4 x 4."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

    from erasediff.families.dit import DiT

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=2,
            out_channels=4 if learned_sigma else 2,
            num_layers=2,
            sample_size=4,
            num_embeds_ada_norm=classes,
        )
        vae = AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=2,
            norm_num_groups=4,
            sample_size=8,
        )
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    return DiT.wrap(transformer.eval(), vae, scheduler, {c: f"class {c}, {c}th" for c in range(classes)})


TINY = {
    "unet2d": unet2d,
    "unet2d-v": lambda **options: unet2d(prediction_type="v_prediction", **options),
    "unet2d-sample": lambda **options: unet2d(prediction_type="sample", **options),
    "unet2d-unconditional": lambda **options: unet2d(classes=0, **options),
    "dit": dit,
}
