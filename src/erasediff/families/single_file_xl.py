"""Stable Diffusion XL as one file, under the names of its first publication (Stability-AI/generative-models).

UNet, VAE and first text encoder have the names of Stable Diffusion 1.x, the latter below another prefix. The second
text encoder has those of OpenCLIP, where query, key and value of an attention are one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialised
from torch import Tensor

from erasediff.families.single_file import UNET, VAE, Rules, as_published, replaced, unet_name, vae_name
from erasediff.files import write_atomic

FIRST, SECOND = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
SIZES: Rules = ((r"^add_embedding\.linear_1", "label_emb.0.0"), (r"^add_embedding\.linear_2", "label_emb.0.2"))
OPEN_CLIP: Rules = (
    (r"^text_model\.", ""),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.fc1\.", ".c_fc."),
    (r"\.fc2\.", ".c_proj."),
    (r"\.self_attn\.", ".attn."),
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^text_projection\.weight$", "text_projection"),
)


def write(model: Any, path: Path) -> None:
    """Write UNet, VAE and both text encoders of a Stable Diffusion XL model to one safetensors file."""
    write_atomic(path, serialised(tensors(model), metadata={"format": "pt"}))


def tensors(model: Any) -> dict[str, Tensor]:
    """The weights of all four by their names in the file."""
    config, vae = model.denoiser.config, model.vae.state_dict()
    first, second = model.parts["text_encoder"].state_dict(), model.parts["text_encoder_2"].state_dict()
    made = {UNET + unet_name(replaced(k, SIZES), config): v for k, v in model.denoiser.state_dict().items()}
    made |= {VAE + vae_name(k, len(model.vae.config.up_block_types)): v for k, v in vae.items()}
    made |= {FIRST + k.removeprefix("text_model."): v for k, v in first.items()}
    made |= {SECOND + k: v for k, v in open_clip(second).items()}
    return {name: as_published(name, tensor).detach().cpu().contiguous() for name, tensor in made.items()}


def open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a CLIPTextModelWithProjection under OpenCLIP's names."""
    made: dict[str, Tensor] = {}
    for key, value in weights.items():
        name = replaced(key, OPEN_CLIP)
        if found := re.match(r"(.*\.attn)\.q_proj\.(weight|bias)$", name):
            rows = [weights[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            made[f"{found[1]}.in_proj_{found[2]}"] = torch.cat(rows)
        elif not re.search(r"\.attn\.[kv]_proj\.", name):
            made[name] = value.T if name == "text_projection" else value
    return made
