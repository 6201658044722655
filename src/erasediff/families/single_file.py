"""Stable Diffusion 1.x as one file, under the names of its first publication (CompVis/stable-diffusion).

The names are the inverse of what diffusers' ``from_single_file`` reads. Blocks are numbered through: with n residual
blocks a level, level b of the way down begins at ``input_blocks.1 + b (n + 1)``, the last of each being the
downsampler; on the way up, level b begins at ``output_blocks.b (n + 1)``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save as serialised
from torch import Tensor

from erasediff.errors import BadInput
from erasediff.files import write_atomic

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."

Rules = Sequence[tuple[str, str]]

UNET_TOP: Rules = (
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
)
UNET_RESNET: Rules = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
VAE_NAMES: Rules = (
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
)
ATTENTION = re.compile(r"\.mid\.attn_1\.(q|k|v|proj_out)\.weight$")


def write(model: Any, path: Path) -> None:
    """Write UNet, VAE and text encoder of a Stable Diffusion 1.x model to one safetensors file.

    Raises BadInput for models of another layout: 2.x, whose text encoder was published under other names.
    """
    write_atomic(path, serialised(tensors(model), metadata={"format": "pt"}))


def tensors(model: Any) -> dict[str, Tensor]:
    """The weights of all three by their names in the file."""
    config = model.denoiser.config
    if config.use_linear_projection or config.addition_embed_type or not isinstance(config.layers_per_block, int):
        raise BadInput("a single file can be written of Stable Diffusion 1.x only, and this is another; use --to full")
    vae = model.vae.state_dict()
    made = {UNET + unet_name(k, config): v for k, v in model.denoiser.state_dict().items()}
    made |= {VAE + vae_name(k, len(model.vae.config.up_block_types)): v for k, v in vae.items()}
    made |= {TEXT + k.removeprefix("text_model."): v for k, v in model.text_encoder.state_dict().items()}
    return {name: as_published(name, tensor).detach().cpu().contiguous() for name, tensor in made.items()}


def unet_name(key: str, config: Any) -> str:
    """The published name of a weight of UNet2DConditionModel."""
    level = config.layers_per_block + 1
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key):
        way, block, kind, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        if kind == "downsamplers":
            key = f"input_blocks.{(block + 1) * level}.0.op.{rest.removeprefix('conv.')}"
        elif kind == "upsamplers":
            after = 2 if "CrossAttn" in config.up_block_types[block] else 1
            key = f"output_blocks.{(block + 1) * level - 1}.{after}.{rest}"
        else:
            place = block * level + number + (way == "down")
            side = "input" if way == "down" else "output"
            key = f"{side}_blocks.{place}.{int(kind == 'attentions')}.{rest}"
    key = replaced(key, UNET_TOP)
    # What is within an attention block was never renamed.
    return key if ".transformer_blocks." in key else replaced(key, UNET_RESNET)


def vae_name(key: str, levels: int) -> str:
    """The published name of a weight of AutoencoderKL; on the way up its ``levels`` were counted from the image."""

    def up(found: re.Match[str]) -> str:
        part = "upsample." if found[2] == "upsamplers.0" else "block."
        return f".up.{levels - 1 - int(found[1])}.{part}"

    return replaced(re.sub(r"\.up_blocks\.(\d+)\.(resnets|upsamplers\.0)\.", up, key), VAE_NAMES)


def replaced(key: str, rules: Rules) -> str:
    for pattern, name in rules:
        key = re.sub(pattern, name, key)
    return key


def as_published(name: str, tensor: Tensor) -> Tensor:
    # The VAE's attention was published with 1 x 1 convolutions where diffusers has linear layers.
    linear = name.startswith(VAE) and ATTENTION.search(name) is not None and tensor.dim() == 2
    return tensor[:, :, None, None] if linear else tensor
