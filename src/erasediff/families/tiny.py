"""A miniature of each family, built in memory from a configuration: nothing is downloaded, nothing is trained."""

from __future__ import annotations

import torch

from erasediff.families.unet2d import UNet2D, fresh


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


TINY = {
    "unet2d": unet2d,
    "unet2d-v": lambda **options: unet2d(prediction_type="v_prediction", **options),
    "unet2d-sample": lambda **options: unet2d(prediction_type="sample", **options),
    "unet2d-unconditional": lambda **options: unet2d(classes=0, **options),
}
