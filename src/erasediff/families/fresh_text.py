"""An untrained text-to-image pipeline for small images, made in memory from captions: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from erasediff.errors import BadInput, listing
from erasediff.families.architecture import norm_groups
from erasediff.families.stable_diffusion import StableDiffusion
from erasediff.families.vocabulary import text_encoder, tokenizer

WIDTH = 64  # of the text encoder
RULER = 256.0  # against which the codec's norm measures: far above any pixel, and exact in every precision
CERTAIN = -30.0  # log variance of the codec's posterior: its draws are its mean


def fresh_text(
    image_shape: Sequence[int],
    captions: Sequence[str],
    *,
    seed: int,
    block_out_channels: Sequence[int] = (32, 48),
    layers_per_block: int = 1,
    attention_levels: Sequence[int] = (),
    dropout: float = 0.0,
    prediction_type: str = "v_prediction",
    beta_schedule: str = "squaredcos_cap_v2",
    num_train_timesteps: int = 1000,
) -> StableDiffusion:
    """An untrained model for square images ``image_shape`` [C, H, W], asked by ``captions``, its classes.

    It diffuses pixels: the pipeline's VAE is :func:`pixel_codec`. Text encoder and codec are not trained.
    ``attention_levels``: levels, counted from the image downwards from 0, that attend to the text; by default all but
    the first.
    Raises BadInput for images that cannot be halved as often, or are not square, and for captions that are too long.
    """
    channels, height, width = image_shape
    words = tokenizer(captions)
    unet = UNet2DConditionModel(
        sample_size=_side(height, width, block_out_channels),
        in_channels=channels,
        out_channels=channels,
        layers_per_block=layers_per_block,
        block_out_channels=tuple(block_out_channels),
        **_blocks(len(block_out_channels), attention_levels),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # heads, whatever its name
        norm_num_groups=norm_groups(block_out_channels),
        dropout=dropout,
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        clip_sample=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        unet=unet,
        vae=pixel_codec(channels, height),
        text_encoder=text_encoder(words, width=WIDTH, seed=seed),
        tokenizer=words,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    return StableDiffusion.wrap(pipeline).with_prompts(captions)


def pixel_codec(channels: int, side: int) -> AutoencoderKL:
    """An AutoencoderKL whose latents are the pixels: ``decode(encode(x)) = x`` to a relative 1e-5 for x in [-1, 1].

    Residual branches are zero. The last norm has one group, in which every channel x has -x beside it and RULER has
    -RULER: its mean is 0, and its variance that of the ruler, whatever the image. After it
    ``silu(x) - silu(-x) = x`` gives the pixel back.
    """
    codec = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(2 * channels + 2,),
        norm_num_groups=1,
        sample_size=side,
        scaling_factor=1.0,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    with torch.no_grad():
        for half in (codec.encoder, codec.decoder):
            _pass_through(half, channels)
        codec.encoder.conv_out.bias[channels:] = CERTAIN
    return codec.eval()


def _pass_through(half: Any, channels: int) -> None:
    """Set one half of the codec so that its first ``channels`` outputs are its inputs."""
    for name, weights in half.named_parameters():
        if not name.startswith("conv_norm_out"):
            weights.zero_()
    ruler = 2 * channels
    # The variance of the group is RULER^2 / (channels + 1) and next to nothing of the image's.
    half.conv_norm_out.weight.fill_(RULER / (channels + 1) ** 0.5)
    half.conv_norm_out.bias.zero_()
    half.conv_in.bias[ruler], half.conv_in.bias[ruler + 1] = RULER, -RULER
    for c in range(channels):
        half.conv_in.weight[2 * c, c, 1, 1], half.conv_in.weight[2 * c + 1, c, 1, 1] = 1.0, -1.0
        half.conv_out.weight[c, 2 * c, 1, 1], half.conv_out.weight[c, 2 * c + 1, 1, 1] = 1.0, -1.0


def _side(height: int, width: int, block_out_channels: Sequence[int]) -> int:
    halvings = len(block_out_channels) - 1
    if height != width:
        raise BadInput(f"a text-to-image model is built for square images, got {height} x {width}; crop or pad them")
    if height % 2**halvings:
        raise BadInput(
            f"images of {height} x {width} cannot be halved {halvings} times; "
            f"give fewer block_out_channels than {listing(block_out_channels)}, or images of another size"
        )
    return height


def _blocks(levels: int, attention_levels: Sequence[int]) -> dict[str, tuple[str, ...]]:
    odd = [level for level in attention_levels if not 0 <= level < levels]
    if odd:
        raise BadInput(f"attention_levels must lie between 0 and {levels - 1}, got {listing(odd)}; give other levels")
    attends = set(attention_levels) or set(range(1, levels)) or {0}
    return {
        "down_block_types": tuple("CrossAttnDownBlock2D" if i in attends else "DownBlock2D" for i in range(levels)),
        "up_block_types": tuple("CrossAttnUpBlock2D" if i in attends else "UpBlock2D" for i in reversed(range(levels))),
    }
