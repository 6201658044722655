"""PixArt alpha and sigma (Chen et al. 2023, arXiv:2310.00426; 2024, arXiv:2403.04692): a transformer asked by T5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel
from torch import Tensor

from erasediff.families.components import T5_TEXT, T5_WORDS, VAE, weights
from erasediff.families.noising import Noising
from erasediff.families.reading import read_index
from erasediff.families.samplers import ode_solver
from erasediff.families.text_maps import CAPTIONS
from erasediff.families.worded import Part, Width, Worded


@dataclass
class PixArtSigma(Worded):
    """A PixArtTransformer2DModel with its VAE and T5 encoder; see :class:`erasediff.families.worded.Worded`.

    A row of the table has T5's ``encoder_hidden_states`` [P, L, D] and which of them are words,
    ``encoder_attention_mask`` [P, L]. Where the transformer learns the variance as well (twice as many channels out as
    in), only the noise is asked and trained: diffusers' pipeline uses nothing else.
    """

    family: str = "pixart"

    PIPELINE: ClassVar[Any] = PixArtSigmaPipeline
    LENGTH: ClassVar[int] = 300
    DENOISER: ClassVar[str] = "transformer"
    PARTS: ClassVar[Mapping[str, Part]] = {
        "tokenizer": T5_WORDS,
        "transformer": weights(PixArtTransformer2DModel),
        "vae": VAE,
        "text_encoder": T5_TEXT,
    }
    ENCODERS: ClassVar[tuple[tuple[str, str], ...]] = (("tokenizer", "text_encoder"),)
    TEXT_MAPS: ClassVar[Mapping[str, str]] = CAPTIONS

    @classmethod
    def widths(cls, pipeline: Any) -> list[Width]:
        taken, latent = pipeline.transformer.config, pipeline.vae.config.latent_channels
        given_back = pipeline.transformer.out_channels
        return [
            Width("latents", taken.in_channels, latent),
            Width("latents to give back", given_back // 2 if given_back == 2 * latent else given_back, latent),
            Width("text", taken.caption_channels, pipeline.text_encoder.config.d_model),
        ]

    @classmethod
    def noised_by(cls, pipeline: Any) -> Noising:
        return Noising.of(pipeline.scheduler)

    def longest(self) -> dict[str, int]:
        return {"tokenizer": self.LENGTH}

    def embedded(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        length = self.limits()["tokenizer"]
        options = {"device": self.denoiser.device, "max_sequence_length": length}
        text, words, _, _ = pipeline.encode_prompt(prompt, False, **options)
        return {"encoder_hidden_states": text, "encoder_attention_mask": words.to(text.dtype)}

    def predicted(self, denoiser: Any, x_t: Tensor, t: Tensor, text: dict[str, Tensor]) -> Tensor:
        told = self.told(x_t)
        return denoiser(x_t, timestep=t, **text, added_cond_kwargs=told, return_dict=False)[0][:, : x_t.shape[1]]

    def told(self, x_t: Tensor) -> dict[str, Tensor | None]:  # noqa: ARG002
        """What the transformer is told of the image's size: nothing."""
        return {"resolution": None, "aspect_ratio": None}

    def sampler(self, num_inference_steps: int) -> DPMSolverMultistepScheduler:
        return ode_solver(self.scheduler, num_inference_steps)


@dataclass
class PixArtAlpha(PixArtSigma):
    """The first PixArt: shorter prompts, and a transformer for large images that is told their size."""

    PIPELINE: ClassVar[Any] = PixArtAlphaPipeline
    LENGTH: ClassVar[int] = 120

    def told(self, x_t: Tensor) -> dict[str, Tensor | None]:
        if not self.denoiser.use_additional_conditions:
            return super().told(x_t)
        height, width = self.image_shape[1:]
        size = x_t.new_tensor([height, width]).expand(len(x_t), -1)
        return {"resolution": size, "aspect_ratio": x_t.new_full((len(x_t), 1), height / width)}


KINDS = {kind.PIPELINE.__name__: kind for kind in (PixArtSigma, PixArtAlpha)}


def load(directory: Path) -> PixArtSigma:
    """Read a PixArtSigmaPipeline or PixArtAlphaPipeline directory."""
    return KINDS[read_index(directory)["_class_name"]].load(directory)


def adopt(pipeline: Any) -> PixArtSigma:
    """Adapt a loaded pipeline of either kind."""
    return KINDS[type(pipeline).__name__].adopt(pipeline)
