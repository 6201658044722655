"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv:2403.03206): a transformer of flow matching, three encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor

from erasediff.families.components import CLIP_PROJECTED, CLIP_WORDS, T5_TEXT, T5_WORDS, VAE, optional, weights
from erasediff.families.flow import T5_LENGTH, euler
from erasediff.families.noising import FlowNoising, shift_for
from erasediff.families.text_maps import JOINT
from erasediff.families.worded import Part, Width, Worded


@dataclass
class StableDiffusion3(Worded):
    """An SD3Transformer2DModel with its VAE and three text encoders; see :class:`erasediff.families.worded.Worded`.

    A row of the table has the text ``encoder_hidden_states`` [P, L, D], both CLIPs' beside each other and T5's behind,
    and their pooled ``pooled_projections`` [P, D']. A pipeline without its T5 is read: zeros stand for what it says.
    """

    family: str = "stable_diffusion_3"

    PIPELINE: ClassVar[Any] = StableDiffusion3Pipeline
    DENOISER: ClassVar[str] = "transformer"
    PARTS: ClassVar[Mapping[str, Part]] = {
        "tokenizer": CLIP_WORDS,
        "tokenizer_2": CLIP_WORDS,
        "tokenizer_3": optional(T5_WORDS),
        "transformer": weights(SD3Transformer2DModel),
        "vae": VAE,
        "text_encoder": CLIP_PROJECTED,
        "text_encoder_2": CLIP_PROJECTED,
        "text_encoder_3": optional(T5_TEXT),
    }
    ENCODERS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("tokenizer", "text_encoder"),
        ("tokenizer_2", "text_encoder_2"),
        ("tokenizer_3", "text_encoder_3"),
    )
    TEXT_MAPS: ClassVar[Mapping[str, str]] = JOINT

    @classmethod
    def widths(cls, pipeline: Any) -> list[Width]:
        taken, latent = pipeline.transformer.config, pipeline.vae.config.latent_channels
        first, second, third = pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3
        pooled = first.config.projection_dim + second.config.projection_dim
        return [
            Width("latents", taken.in_channels, latent),
            Width("latents to give back", pipeline.transformer.out_channels, latent),
            Width("pooled text", taken.pooled_projection_dim, pooled),
            *([] if third is None else [Width("text", taken.joint_attention_dim, third.config.d_model)]),
        ]

    @classmethod
    def noised_by(cls, pipeline: Any) -> FlowNoising:
        return FlowNoising.of(pipeline.scheduler, mu=shift(pipeline.transformer.config, pipeline.scheduler))

    def longest(self) -> dict[str, int]:
        return {"tokenizer_3": T5_LENGTH}

    def embedded(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        length = self.limits().get("tokenizer_3", T5_LENGTH)
        options = {"do_classifier_free_guidance": False, "max_sequence_length": length}
        text, _, pooled, _ = pipeline.encode_prompt(prompt, None, None, device=self.denoiser.device, **options)
        return {"encoder_hidden_states": text, "pooled_projections": pooled}

    def predicted(self, denoiser: Any, x_t: Tensor, t: Tensor, text: dict[str, Tensor]) -> Tensor:
        return denoiser(x_t, timestep=self.noising.timesteps(t), **text, return_dict=False)[0]

    def sampler(self, num_inference_steps: int) -> Any:
        return euler(self.scheduler, num_inference_steps, mu=shift(self.denoiser.config, self.scheduler))


def shift(transformer: Any, scheduler: Any) -> float:
    """``mu`` for the size of the images, of which a square of ``patch_size`` latent cells is a token."""
    tokens = (transformer.sample_size // transformer.patch_size) ** 2
    return shift_for(tokens, scheduler.config, max_shift=1.16)


load, adopt, load_file = StableDiffusion3.load, StableDiffusion3.adopt, StableDiffusion3.load_file
