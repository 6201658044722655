"""Z-Image (Tongyi 2025, arXiv:2511.22699): one stream of latents and words through a transformer, asked by Qwen 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor
from torch.nn.functional import pad

from erasediff.families.any_size import TOKEN, AnySize
from erasediff.families.components import QWEN_WORDS, VAE, encoder, weights
from erasediff.families.prompts import NULL
from erasediff.families.worded import Part, Width
from erasediff.families.words import LIBRARY, check_chat

LENGTH: int = signature(ZImagePipeline.__call__).parameters["max_sequence_length"].default  # tokens, frame and all


@dataclass
class ZImage(AnySize):
    """A ZImageTransformer2DModel with its VAE and Qwen 3; see Worded, and AnySize for the size of images.

    A row of the table has what Qwen's last layer but one says of the prompt in the frame of a chat,
    ``encoder_hidden_states`` [P, L, D], and which of its places are words, ``encoder_attention_mask`` [P, L]; the
    others are zeros. The transformer reads each prompt at its own length, so rows are cut when they are asked. The null
    condition is the empty prompt in its frame, as the pipeline draws.

    Its time runs from noise (0) to image (1), and so does the line that it predicts; here both are turned round.
    """

    family: str = "z_image"

    PIPELINE: ClassVar[Any] = ZImagePipeline
    DENOISER: ClassVar[str] = "transformer"
    PARTS: ClassVar[Mapping[str, Part]] = {
        "tokenizer": QWEN_WORDS,
        "transformer": weights(ZImageTransformer2DModel),
        "vae": VAE,
        "text_encoder": encoder(LIBRARY.Qwen3Model),
    }
    ENCODERS: ClassVar[tuple[tuple[str, str], ...]] = (("tokenizer", "text_encoder"),)
    TEXT_MAPS: ClassVar[Mapping[str, str]] = {"cap_embedder.1.weight": "encoder_hidden_states"}
    RAGGED: ClassVar[bool] = True

    @classmethod
    def widths(cls, pipeline: Any) -> list[Width]:
        taken, latent = pipeline.transformer.config, pipeline.vae.config.latent_channels
        return [
            Width("latents", taken.in_channels, latent),
            Width("patches", taken.all_patch_size[0], TOKEN),
            Width("text", taken.cap_feat_dim, pipeline.text_encoder.config.hidden_size),
            Width("features of images to edit", taken.siglip_feat_dim or 0, 0),
        ]

    @classmethod
    def check_fit(cls, pipeline: Any) -> None:
        super().check_fit(pipeline)
        check_chat(pipeline.tokenizer)

    @property
    def length(self) -> int:
        """How many tokens of a prompt in its frame are read."""
        return min(LENGTH, self.tokenizer.model_max_length)

    def longest(self) -> dict[str, int]:
        frame = [{"role": "user", "content": NULL}]
        asked = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        framed = self.tokenizer.apply_chat_template(frame, **asked)
        return {"tokenizer": self.length - len(self.tokenizer(framed).input_ids)}

    def embedded(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        options = {"device": self.denoiser.device, "max_sequence_length": self.length}
        ((text,), _) = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, **options)
        rest = self.length - len(text)
        words = pad(text.new_ones(len(text)), (0, rest))
        return {"encoder_hidden_states": pad(text, (0, 0, 0, rest))[None], "encoder_attention_mask": words[None]}

    def predicted(self, denoiser: Any, x_t: Tensor, t: Tensor, text: dict[str, Tensor]) -> Tensor:
        at = (1000 - self.noising.timesteps(t)) / 1000
        rows = zip(text["encoder_hidden_states"], text["encoder_attention_mask"], strict=True)
        said = denoiser(list(x_t[:, :, None]), at, [row[words > 0] for row, words in rows], return_dict=False)[0]
        return -torch.stack(said)[:, :, 0]

    @torch.no_grad()
    def text_rows(self, denoiser: Any, embedding: str) -> Tensor:
        normed: Tensor = denoiser.cap_embedder[0](super().text_rows(denoiser, embedding))
        return normed


load, adopt, load_file = ZImage.load, ZImage.adopt, ZImage.load_file
