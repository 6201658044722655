"""FLUX.1: a transformer of flow matching over packed latents, asked through T5 and what CLIP says in one vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from erasediff.families.any_size import AnySize
from erasediff.families.components import CLIP_TEXT, CLIP_WORDS, T5_TEXT, T5_WORDS, VAE, weights
from erasediff.families.flow import T5_LENGTH
from erasediff.families.prompts import NULL
from erasediff.families.text_maps import JOINT
from erasediff.families.worded import Part, Width

GUIDED_LENGTH = 512  # tokens of T5 for guidance-distilled models; the others were trained on 256


@dataclass
class Flux(AnySize):
    """A FluxTransformer2DModel with its VAE, a CLIP and a T5 encoder; see Worded, and AnySize for the size of images.

    A row of the table has T5's ``encoder_hidden_states`` [P, L, D] and CLIP's ``pooled_projections`` [P, D']. A
    guidance-distilled model (FLUX.1 dev) takes the strength of guidance as an input, and the table has that too:
    ``guidance`` [P] is that of this object for every prompt, 3.5 as the pipeline draws. Its null condition is the empty
    prompt at guidance 1: as near to "no condition, no guidance" as such a model can be asked. Guidance by two passes
    (the pipeline's ``true_cfg_scale``) is that of the sampling loop, and comes on top.
    """

    guidance: float = 3.5
    family: str = "flux"

    PIPELINE: ClassVar[Any] = FluxPipeline
    DENOISER: ClassVar[str] = "transformer"
    PARTS: ClassVar[Mapping[str, Part]] = {
        "tokenizer": CLIP_WORDS,
        "tokenizer_2": T5_WORDS,
        "transformer": weights(FluxTransformer2DModel),
        "vae": VAE,
        "text_encoder": CLIP_TEXT,
        "text_encoder_2": T5_TEXT,
    }
    ENCODERS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("tokenizer", "text_encoder"),
        ("tokenizer_2", "text_encoder_2"),
    )
    TEXT_MAPS: ClassVar[Mapping[str, str]] = JOINT

    @classmethod
    def widths(cls, pipeline: Any) -> list[Width]:
        taken, packed = pipeline.transformer.config, 4 * pipeline.vae.config.latent_channels
        return [
            Width("packed latents", taken.in_channels, packed),
            Width("packed latents to give back", pipeline.transformer.out_channels, packed),
            Width("pooled text", taken.pooled_projection_dim, pipeline.text_encoder.config.hidden_size),
            Width("text", taken.joint_attention_dim, pipeline.text_encoder_2.config.d_model),
        ]

    def longest(self) -> dict[str, int]:
        return {"tokenizer_2": GUIDED_LENGTH if self.denoiser.config.guidance_embeds else T5_LENGTH}

    def embedded(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        device, length = self.denoiser.device, self.limits()["tokenizer_2"]
        text, pooled, _ = pipeline.encode_prompt(prompt, None, device, max_sequence_length=length)
        row = {"encoder_hidden_states": text, "pooled_projections": pooled}
        if self.denoiser.config.guidance_embeds:
            row["guidance"] = pooled.new_full((1,), 1.0 if prompt == NULL else self.guidance)
        return row

    def predicted(self, denoiser: Any, x_t: Tensor, t: Tensor, text: dict[str, Tensor]) -> Tensor:
        height, width = (side // 2 for side in x_t.shape[-2:])
        # A token is a square of four cells; it is told where it stands, and the words that they stand nowhere.
        tokens = pixel_unshuffle(x_t, 2).flatten(2).transpose(1, 2)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).to(x_t)
        said = denoiser(
            tokens,
            timestep=self.noising.timesteps(t) / 1000,
            **text,
            img_ids=places,
            txt_ids=places.new_zeros(text["encoder_hidden_states"].shape[1], 3),
            return_dict=False,
        )[0]
        return pixel_shuffle(said.transpose(1, 2).unflatten(2, (height, width)), 2)


load, adopt, load_file = Flux.load, Flux.adopt, Flux.load_file
