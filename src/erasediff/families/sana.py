"""Sana (Xie et al. 2024, arXiv:2410.10629): linear attention over deeply compressed latents, asked by Gemma 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
)
from torch import Tensor

from erasediff.families.components import encoder, weights
from erasediff.families.flow import euler
from erasediff.families.latents import AT_ONCE, Latents
from erasediff.families.noising import FlowNoising
from erasediff.families.prompts import NULL
from erasediff.families.reading import read_tokenizer
from erasediff.families.text_maps import CAPTIONS
from erasediff.families.worded import Part, Width, Worded
from erasediff.families.words import LIBRARY

# What the pipeline draws with unless told: the instruction put before every prompt, and how many tokens it keeps.
DRAWN = {name: given.default for name, given in signature(SanaPipeline.__call__).parameters.items()}
INSTRUCTION, LENGTH = DRAWN["complex_human_instruction"], DRAWN["max_sequence_length"]


@dataclass(frozen=True, eq=False)
class DeepLatents(Latents):
    """A deep compression autoencoder (Chen et al. 2024, arXiv:2410.10733): no posterior, an image is one latent."""

    @property
    def factor(self) -> int:
        return int(self.vae.spatial_compression_ratio)

    @torch.no_grad()
    def _posteriors(self, images: Tensor) -> list[Any]:
        vae, rows = self._beside(images), max(1, AT_ONCE // images.shape[-2:].numel())
        found = [vae.encode(part.to(vae.dtype)).latent for part in images.split(rows)]
        return [SimpleNamespace(mode=partial(torch.clone, z), std=torch.zeros_like(z)) for z in found]


@dataclass
class Sana(Worded):
    """A SanaTransformer2DModel with its AutoencoderDC and Gemma 2; see :class:`erasediff.families.worded.Worded`.

    A row of the table has Gemma's ``encoder_hidden_states`` [P, L, D] of the prompt behind the pipeline's own
    instruction (sec. 2.3), and which of them are words, ``encoder_attention_mask`` [P, L]; the null condition is the
    empty prompt without the instruction, as the pipeline draws.
    """

    family: str = "sana"

    PIPELINE: ClassVar[Any] = SanaPipeline
    DENOISER: ClassVar[str] = "transformer"
    PARTS: ClassVar[Mapping[str, Part]] = {
        "tokenizer": Part(partial(read_tokenizer, kind=LIBRARY.GemmaTokenizerFast, files=(("tokenizer.json",),))),
        "transformer": weights(SanaTransformer2DModel),
        "vae": weights(AutoencoderDC),
        "text_encoder": encoder(LIBRARY.Gemma2Model),
    }
    ENCODERS: ClassVar[tuple[tuple[str, str], ...]] = (("tokenizer", "text_encoder"),)
    TEXT_MAPS: ClassVar[Mapping[str, str]] = CAPTIONS

    @classmethod
    def widths(cls, pipeline: Any) -> list[Width]:
        taken, latent = pipeline.transformer.config, pipeline.vae.config.latent_channels
        given_back = taken.out_channels or taken.in_channels
        return [
            Width("latents", taken.in_channels, latent),
            Width("latents to give back", given_back // 2 if given_back == 2 * latent else given_back, latent),
            Width("text", taken.caption_channels, pipeline.text_encoder.config.hidden_size),
            Width("embedded guidance", int(taken.guidance_embeds), 0),
        ]

    @classmethod
    def noised_by(cls, pipeline: Any) -> FlowNoising:
        config = pipeline.scheduler.config
        if not config.get("use_flow_sigmas"):
            return FlowNoising.of(pipeline.scheduler)
        # A solver of flow sigmas shifts them alike, and has no table of all steps.
        steps, shift = config.num_train_timesteps, config.flow_shift
        return FlowNoising.of(FlowMatchEulerDiscreteScheduler(num_train_timesteps=steps, shift=shift))

    def longest(self) -> dict[str, int]:
        return {"tokenizer": LENGTH - 1}  # behind the instruction there is room for one token less

    def embedded(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        options: dict[str, Any] = {"device": self.denoiser.device, "max_sequence_length": LENGTH}
        null = prompt == NULL
        found = pipeline.encode_prompt(prompt, null, complex_human_instruction=INSTRUCTION, **options)
        text, words = found[2:] if null else found[:2]
        return {"encoder_hidden_states": text, "encoder_attention_mask": words.to(text.dtype)}

    def predicted(self, denoiser: Any, x_t: Tensor, t: Tensor, text: dict[str, Tensor]) -> Tensor:
        at = self.noising.timesteps(t) * self.denoiser.config.timestep_scale
        return denoiser(x_t, timestep=at, **text, return_dict=False)[0][:, : x_t.shape[1]]

    @property
    def latents(self) -> DeepLatents:
        return DeepLatents(self.vae)

    def sampler(self, num_inference_steps: int) -> Any:
        if not self.scheduler.config.get("use_flow_sigmas"):
            return euler(self.scheduler, num_inference_steps, mu=0.0)
        sampler = DPMSolverMultistepScheduler.from_config(self.scheduler.config, algorithm_type="dpmsolver++")
        sampler.set_timesteps(num_inference_steps)
        sampler.timesteps = sampler.timesteps.float()  # whole numbers would be rows of the table
        return sampler


load, adopt = Sana.load, Sana.adopt
