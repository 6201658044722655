"""The shapes of published models, with random weights: nothing is downloaded. Beside each a shrunken one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import nn

from erasediff.families.base import ClassConditions
from erasediff.families.flux import Flux
from erasediff.families.noising import FlowNoising, Noising
from erasediff.families.prompts import NULL, PromptTable
from erasediff.families.stable_diffusion import StableDiffusion
from erasediff.families.stable_diffusion_3 import StableDiffusion3
from erasediff.families.stable_diffusion_xl import StableDiffusionXL

PROMPTS = ("what goes", "what stays", "the anchor", NULL)

SMALL = {"sample_size": 16, "cross_attention_dim": 32, "layers_per_block": 1, "norm_num_groups": 8}
SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "use_linear_projection": True,
}
SD3 = {"sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "pos_embed_max_size": 192}


@dataclass(frozen=True)
class Shape:
    """A model by its configuration: the denoiser's, the latents' channels, the rows of its table of prompts."""

    family: Any
    denoiser: Any
    config: Mapping[str, Any]
    tiny: Mapping[str, Any]
    channels: int
    text: Mapping[str, tuple[str | int, ...]]  # sizes, those that are names are the configuration's
    flow: bool = False


SHAPES = {
    "sd15": Shape(
        StableDiffusion,
        UNet2DConditionModel,
        {"sample_size": 64, "cross_attention_dim": 768},
        {**SMALL, "block_out_channels": (32, 32, 32, 32)},
        4,
        {"encoder_hidden_states": (77, "cross_attention_dim")},
    ),
    "sdxl": Shape(
        StableDiffusionXL,
        UNet2DConditionModel,
        {
            **SDXL,
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        {
            **SDXL,
            **SMALL,
            "block_out_channels": (32, 32, 32),
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 1280 + 6 * 8,
        },
        4,
        {"encoder_hidden_states": (77, "cross_attention_dim"), "text_embeds": (1280,), "time_ids": (6,)},
    ),
    "sd3": Shape(
        StableDiffusion3,
        SD3Transformer2DModel,
        {
            **SD3,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
        },
        {
            **SD3,
            "sample_size": 8,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 32,
        },
        16,
        {"encoder_hidden_states": (77 + 256, "joint_attention_dim"), "pooled_projections": ("pooled_projection_dim",)},
        flow=True,
    ),
    "flux": Shape(
        Flux,
        FluxTransformer2DModel,
        {"guidance_embeds": True},
        {
            "guidance_embeds": True,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 32,
            "axes_dims_rope": (4, 6, 6),
        },
        16,
        {
            "encoder_hidden_states": (512, "joint_attention_dim"),
            "pooled_projections": ("pooled_projection_dim",),
            "guidance": (),
        },
        flow=True,
    ),
}


def shapes_only(name: str, *, tiny: bool = False) -> nn.Module:
    """The denoiser on the meta device: no weight takes any memory."""
    shape = SHAPES[name]
    with torch.device("meta"):
        made = shape.denoiser(**(shape.tiny if tiny else shape.config))
    if tiny and shape.family is Flux:
        made.register_to_config(_sample_size=8)
    return made.eval()


def model(name: str, device: str | torch.device, *, tiny: bool = False) -> Any:
    """The model with random weights on ``device``, without VAE and text encoders: their work is done beforehand."""
    shape, denoiser = SHAPES[name], shapes_only(name, tiny=tiny).to_empty(device=device)
    fill(denoiser)
    if shape.flow:
        scheduler = FlowMatchEulerDiscreteScheduler()
        noising: Any = FlowNoising.of(scheduler)
    else:
        scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
        noising = Noising.of(scheduler)
    return shape.family(
        denoiser=denoiser,
        parts={"vae": Absent(shape.channels)},
        scheduler=scheduler,
        noising=noising,
        table=table(name, tiny=tiny),
        conditions=ClassConditions(2, 3, excluded=(0,), anchor=2),
    )


def fill(module: nn.Module) -> None:
    """Give every weight small random values: a million of them, again and again, which is quick on the CPU too."""
    drawn = torch.randn(2**20, generator=torch.Generator().manual_seed(0)) * 0.02
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                times = -(-tensor.numel() // len(drawn))
                tensor.copy_(drawn.to(tensor.device).repeat(times)[: tensor.numel()].view(tensor.shape))


class Absent:
    """In the place of a VAE that has done its work: it says what its latents were like, and nothing more."""

    def __init__(self, channels: int) -> None:
        self.config = SimpleNamespace(in_channels=3, latent_channels=channels, block_out_channels=(1,) * 4)

    def to(self, device: Any) -> None:
        pass


def table(name: str, *, tiny: bool = False) -> PromptTable:
    """Random embeddings of four prompts: those of two classes, the anchor's and the null condition's."""
    shape, source = SHAPES[name], torch.Generator().manual_seed(0)
    config = shape.tiny if tiny else {**_defaults(shape), **shape.config}
    rows = {}
    for row, sizes in shape.text.items():
        lengths = [config[size] if isinstance(size, str) else size for size in sizes]
        rows[row] = torch.randn(len(PROMPTS), *lengths, generator=source)
    return PromptTable(PROMPTS, rows)


def _defaults(shape: Shape) -> dict[str, Any]:
    from inspect import signature

    return {name: p.default for name, p in signature(shape.denoiser.__init__).parameters.items()}
