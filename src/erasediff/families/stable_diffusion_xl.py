"""Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952): a larger UNet, two encoders, told the image's size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline
from torch import Tensor

from erasediff.families.components import CLIP_PROJECTED, CLIP_TEXT, CLIP_WORDS, UNET, VAE
from erasediff.families.noising import Noising
from erasediff.families.prompts import NULL
from erasediff.families.samplers import ode_solver
from erasediff.families.stable_diffusion import unet_widths
from erasediff.families.worded import Part, Width, Worded


@dataclass
class StableDiffusionXL(Worded):
    """A UNet2DConditionModel with its frozen VAE and two text encoders; see :class:`erasediff.families.worded.Worded`.

    A row of the table has the text ``encoder_hidden_states`` [P, L, D] of both encoders, the pooled ``text_embeds``
    [P, D'] of the second, and ``time_ids`` [P, 6]: original size, corner of the crop and size of the image (sec. 2.2).
    All images are uncropped and of the size that the UNet was trained on. The null condition is all zeros where the
    pipeline's ``force_zeros_for_empty_prompt`` says so, as it does when the pipeline draws.
    """

    family: str = "stable_diffusion_xl"

    PIPELINE: ClassVar[Any] = StableDiffusionXLPipeline
    DENOISER: ClassVar[str] = "unet"
    PARTS: ClassVar[Mapping[str, Part]] = {
        "tokenizer": CLIP_WORDS,
        "tokenizer_2": CLIP_WORDS,
        "unet": UNET,
        "vae": VAE,
        "text_encoder": CLIP_TEXT,
        "text_encoder_2": CLIP_PROJECTED,
    }
    ENCODERS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("tokenizer", "text_encoder"),
        ("tokenizer_2", "text_encoder_2"),
    )
    OPTIONS: ClassVar[tuple[str, ...]] = ("force_zeros_for_empty_prompt",)

    @classmethod
    def widths(cls, pipeline: Any) -> list[Width]:
        unet, (first, second) = pipeline.unet.config, (pipeline.text_encoder.config, pipeline.text_encoder_2.config)
        told = 6 * (unet.addition_time_embed_dim or 0) + second.projection_dim
        return [
            *unet_widths(pipeline, first.hidden_size + second.hidden_size),
            Width("pooled text and sizes", unet.projection_class_embeddings_input_dim or 0, told),
        ]

    @classmethod
    def noised_by(cls, pipeline: Any) -> Noising:
        return Noising.of(pipeline.scheduler)

    def embedded(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        # Asked for no negative prompt, the pipeline says what it guides away from, which may be zeros.
        found = pipeline.encode_prompt(prompt, device=self.denoiser.device, do_classifier_free_guidance=prompt == NULL)
        text, pooled = (found[1], found[3]) if prompt == NULL else (found[0], found[2])
        size = self.image_shape[1:]
        return {
            "encoder_hidden_states": text,
            "text_embeds": pooled,
            "time_ids": pooled.new_tensor([[*size, 0, 0, *size]]),
        }

    def predicted(self, denoiser: Any, x_t: Tensor, t: Tensor, text: dict[str, Tensor]) -> Tensor:
        told = {"text_embeds": text["text_embeds"], "time_ids": text["time_ids"]}
        hidden = text["encoder_hidden_states"]
        return denoiser(x_t, t, encoder_hidden_states=hidden, added_cond_kwargs=told, return_dict=False)[0]

    def sampler(self, num_inference_steps: int) -> DPMSolverMultistepScheduler:
        return ode_solver(self.scheduler, num_inference_steps)


load, adopt, load_file = StableDiffusionXL.load, StableDiffusionXL.adopt, StableDiffusionXL.load_file
