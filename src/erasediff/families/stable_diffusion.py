"""Stable Diffusion 1.x and 2.x: a UNet over a VAE's latents, asked through one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch import Tensor

from erasediff.families.components import CLIP_TEXT, CLIP_WORDS, UNET, VAE
from erasediff.families.noising import Noising
from erasediff.families.samplers import ode_solver
from erasediff.families.text_reader import OneEncoder
from erasediff.families.worded import Part, Width, Worded


@dataclass
class StableDiffusion(Worded):
    """A UNet2DConditionModel with its frozen VAE and text encoder; see :class:`erasediff.families.worded.Worded`."""

    family: str = "stable_diffusion"

    PIPELINE: ClassVar[Any] = StableDiffusionPipeline
    DENOISER: ClassVar[str] = "unet"
    PARTS: ClassVar[Mapping[str, Part]] = {
        "tokenizer": CLIP_WORDS,
        "unet": UNET,
        "vae": VAE,
        "text_encoder": CLIP_TEXT,
    }
    ENCODERS: ClassVar[tuple[tuple[str, str], ...]] = (("tokenizer", "text_encoder"),)

    @classmethod
    def widths(cls, pipeline: Any) -> list[Width]:
        return [*unet_widths(pipeline, pipeline.text_encoder.config.hidden_size)]

    @classmethod
    def noised_by(cls, pipeline: Any) -> Noising:
        return Noising.of(pipeline.scheduler)

    @classmethod
    def built(cls, parts: Mapping[str, Any], scheduler: Any, options: Mapping[str, Any], beside: Any) -> Any:
        checked = {"requires_safety_checker": "safety_checker" in beside}
        return super().built(parts, scheduler, {**options, **checked}, beside)

    def embedded(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        return {"encoder_hidden_states": pipeline.encode_prompt(prompt, pipeline.text_encoder.device, 1, False)[0]}

    def predicted(self, denoiser: Any, x_t: Tensor, t: Tensor, text: dict[str, Tensor]) -> Tensor:
        return denoiser(x_t, t, **text, return_dict=False)[0]

    def reader(self) -> OneEncoder:
        return OneEncoder(self)

    def sampler(self, num_inference_steps: int) -> DPMSolverMultistepScheduler:
        return ode_solver(self.scheduler, num_inference_steps)


def unet_widths(pipeline: Any, text: int) -> list[Width]:
    """What a UNet2DConditionModel takes: latents in and out, a text of this width, no embedded guidance."""
    unet, latent = pipeline.unet.config, pipeline.vae.config.latent_channels
    return [
        Width("latents", unet.in_channels, latent),
        Width("latents to give back", unet.out_channels, latent),
        Width("text", unet.cross_attention_dim, text),
        Width("embedded guidance", unet.time_cond_proj_dim or 0, 0),
    ]


load, adopt, load_file = StableDiffusion.load, StableDiffusion.adopt, StableDiffusion.load_file
