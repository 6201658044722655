"""Qwen-Image (Wu et al. 2025, arXiv:2508.02324): two streams over packed latents, asked through Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import diffusers
import torch
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from diffusers.models.transformers import transformer_qwenimage
from torch import Tensor
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from erasediff.errors import BadInput
from erasediff.families.any_size import AnySize
from erasediff.families.components import QWEN_WORDS, encoder, weights
from erasediff.families.frames import OneFrame
from erasediff.families.text_maps import TEXT_IN
from erasediff.families.worded import Part, Width
from erasediff.families.words import LIBRARY

# How many tokens the pipeline keeps unless told, and how many of them are the end of its instruction.
LENGTH = signature(QwenImagePipeline.__call__).parameters["max_sequence_length"].default
ENDING = 5
# What transformers of this class take for other tasks: each a switch of the configuration.
OTHERS = {
    "guidance_embeds": "embedded guidance",
    "zero_cond_t": "images to edit",
    "use_additional_t_cond": "marks of transparent images",
    "use_layer3d_rope": "layers of images",
}
# Older versions take the mask of the words and do not look at it: padding would be read as words.
MASKED = hasattr(transformer_qwenimage, "compute_text_seq_len_from_mask")


@dataclass
class QwenImage(AnySize):
    """A QwenImageTransformer2DModel with its VAE and Qwen2.5-VL; see Worded, and AnySize for the size of images.

    A row of the table has Qwen's ``encoder_hidden_states`` [P, L, D] of the prompt in the pipeline's own instruction,
    less the beginning of it, and which of them are words, ``encoder_hidden_states_mask`` [P, L]. The null condition is
    the empty prompt in the same instruction.
    """

    family: str = "qwen_image"

    PIPELINE: ClassVar[Any] = QwenImagePipeline
    DENOISER: ClassVar[str] = "transformer"
    PARTS: ClassVar[Mapping[str, Part]] = {
        "tokenizer": QWEN_WORDS,
        "transformer": weights(QwenImageTransformer2DModel),
        "vae": weights(AutoencoderKLQwenImage),
        "text_encoder": encoder(LIBRARY.Qwen2_5_VLForConditionalGeneration),
    }
    ENCODERS: ClassVar[tuple[tuple[str, str], ...]] = (("tokenizer", "text_encoder"),)
    TEXT_MAPS: ClassVar[Mapping[str, str]] = TEXT_IN

    @classmethod
    def widths(cls, pipeline: Any) -> list[Width]:
        taken, latent = pipeline.transformer.config, pipeline.vae.config.z_dim
        said = pipeline.text_encoder.config.get_text_config().hidden_size
        return [
            Width("tokens of latents", taken.patch_size, 2),
            Width("packed latents", taken.in_channels, 4 * latent),
            Width("latents to give back", pipeline.transformer.out_channels, latent),
            Width("text", taken.joint_attention_dim, said),
            *(Width(what, int(taken.get(switch, False)), 0) for switch, what in OTHERS.items()),
        ]

    @classmethod
    def check_fit(cls, pipeline: Any) -> None:
        if not MASKED:
            raise BadInput(
                f"diffusers {diffusers.__version__} lets a QwenImageTransformer2DModel read padding as words; needed "
                'is 0.37 or newer: pip install --upgrade "diffusers>=0.37"'
            )
        super().check_fit(pipeline)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width = (side * self.latents.factor for side in self.cells)
        return self.vae.config.get("input_channels", 3), height, width

    @property
    def latents(self) -> OneFrame:
        return OneFrame(self.vae)

    def longest(self) -> dict[str, int]:
        return {"tokenizer": LENGTH - ENDING}

    def embedded(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        length = self.limits()["tokenizer"] + ENDING
        text, _ = pipeline.encode_prompt(prompt, device=self.denoiser.device, max_sequence_length=length)
        # Of one prompt every row is a word, and no mask is given. Prompts of a table are brought to one length.
        missing = length - text.shape[1]
        words = pad(torch.ones_like(text[..., 0]), (0, missing))
        return {"encoder_hidden_states": pad(text, (0, 0, 0, missing)), "encoder_hidden_states_mask": words}

    @torch.no_grad()
    def text_rows(self, denoiser: Any, embedding: str) -> Tensor:
        """What the first map takes: the table's rows, normalised by the transformer."""
        normed: Tensor = denoiser.txt_norm(super().text_rows(denoiser, embedding))
        return normed

    def predicted(self, denoiser: Any, x_t: Tensor, t: Tensor, text: dict[str, Tensor]) -> Tensor:
        height, width = (side // 2 for side in x_t.shape[-2:])
        # A token is a square of four cells.
        said = denoiser(
            pixel_unshuffle(x_t, 2).flatten(2).transpose(1, 2),
            timestep=self.noising.timesteps(t) / 1000,
            **text,
            img_shapes=[[(1, height, width)]] * len(x_t),
            return_dict=False,
        )[0]
        return pixel_shuffle(said.transpose(1, 2).unflatten(2, (height, width)), 2)


load, adopt = QwenImage.load, QwenImage.adopt
