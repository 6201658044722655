"""Finding the maps that read text, by the ends of their parameters' names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from erasediff.families.base import TextMap

# Keys and values of every cross-attention: in UNets the text enters nowhere else.
CROSS_ATTENTION = {f".attn2.{side}.weight": "encoder_hidden_states" for side in ("to_k", "to_v")}


# A joint transformer reads its text through one map before the first block, and what is pooled of it through another.
JOINT = {
    "context_embedder.weight": "encoder_hidden_states",
    "time_text_embed.text_embedder.linear_1.weight": "pooled_projections",
}

# PixArt projects its captions once for all blocks.
CAPTIONS = {"caption_projection.linear_1.weight": "encoder_hidden_states"}

# Qwen-Image reads its text through one map, as FLUX, but behind a norm: see text_rows of the family.
TEXT_IN = {"txt_in.weight": "encoder_hidden_states"}


def maps_ending(denoiser: nn.Module, ends: Mapping[str, str]) -> list[TextMap]:
    """The weights of ``denoiser`` whose names end as a key of ``ends``, with the embedding that its value names."""
    names = [name for name, _ in denoiser.named_parameters()]
    return [TextMap(name, ends[end]) for name in names for end in ends if name.endswith(end)]
