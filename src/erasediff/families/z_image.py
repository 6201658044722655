"""Z-Image (Tongyi 2025, arXiv:2511.22699): one stream of latents and words through a transformer, asked by Qwen 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any, ClassVar

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor
from torch.nn.functional import pad

from erasediff.errors import BadInput
from erasediff.families.components import VAE, encoder, weights
from erasediff.families.flow import euler
from erasediff.families.flux import SIZE, shift, sized
from erasediff.families.latents import Latents
from erasediff.families.noising import FlowNoising
from erasediff.families.prompts import NULL
from erasediff.families.reading import read_tokenizer
from erasediff.families.worded import Part, Width, Worded
from erasediff.families.words import LIBRARY

PATCH = 2  # latent cells to a side of a token: what the pipeline asks for, whatever else a transformer could
LENGTH: int = signature(ZImagePipeline.__call__).parameters["max_sequence_length"].default  # tokens, frame and all


@dataclass
class ZImage(Worded):
    """A ZImageTransformer2DModel with its VAE and Qwen 3; see :class:`erasediff.families.worded.Worded`.

    A row of the table has what Qwen's last layer but one says of the prompt in the frame of a chat,
    ``encoder_hidden_states`` [P, L, D], and which of its places are words, ``encoder_attention_mask`` [P, L]; the
    others are zeros. The transformer reads each prompt at its own length, so rows are cut when they are asked. The null
    condition is the empty prompt in its frame, as the pipeline draws.

    Its time runs from noise (0) to image (1), and so does the line that it predicts; here both are turned round. No
    size of image is its own: it is kept as that of :class:`erasediff.families.flux.Flux`.
    """

    family: str = "z_image"

    PIPELINE: ClassVar[Any] = ZImagePipeline
    DENOISER: ClassVar[str] = "transformer"
    PARTS: ClassVar[Mapping[str, Part]] = {
        "tokenizer": Part(
            partial(
                read_tokenizer,
                kind=LIBRARY.Qwen2Tokenizer,
                files=(("tokenizer.json", "vocab.json"), ("tokenizer.json", "merges.txt")),
            )
        ),
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
            Width("patches", taken.all_patch_size[0], PATCH),
            Width("text", taken.cap_feat_dim, pipeline.text_encoder.config.hidden_size),
            Width("features of images to edit", taken.siglip_feat_dim or 0, 0),
        ]

    @classmethod
    def check_fit(cls, pipeline: Any) -> None:
        super().check_fit(pipeline)
        if not pipeline.tokenizer.chat_template:
            raise BadInput(
                "the tokenizer has no chat template, in which Z-Image reads every prompt; take chat_template.jinja or "
                "tokenizer_config.json from the model's first publication"
            )

    @classmethod
    def noised_by(cls, pipeline: Any) -> FlowNoising:
        return FlowNoising.of(pipeline.scheduler, mu=shift(pipeline.transformer, pipeline.scheduler))

    @property
    def cells(self) -> tuple[int, int]:
        return sized(self.denoiser)

    def with_size(self, height: int, width: int) -> ZImage:
        """The same model for images of another size, which its transformer is saved with.

        Raises BadInput unless both sides are made of whole tokens.
        """
        side = PATCH * Latents(self.vae).factor
        if height % side or width % side or not height or not width:
            raise BadInput(f"this model draws images whose sides are multiples of {side}; these are {height} x {width}")
        self.denoiser.register_to_config(**{SIZE: [PATCH * height // side, PATCH * width // side]})
        return replace(self, noising=FlowNoising.of(self.scheduler, mu=shift(self.denoiser, self.scheduler)))

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

    def text_rows(self, denoiser: Any, embedding: str) -> Tensor:
        normed: Tensor = denoiser.cap_embedder[0](super().text_rows(denoiser, embedding))
        return normed

    def sampler(self, num_inference_steps: int) -> Any:
        sigmas = torch.linspace(1, 1 / num_inference_steps, num_inference_steps).tolist()
        mu = shift(self.denoiser, self.scheduler)
        return euler(self.scheduler, num_inference_steps, mu=mu, sigmas=sigmas)


load, adopt, load_file = ZImage.load, ZImage.adopt, ZImage.load_file
