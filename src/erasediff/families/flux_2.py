"""FLUX.2 klein: a transformer of flow matching over normalised patches of latents, asked by Qwen 3 (arXiv:2505.09388).

Flow matching is that of Esser et al. (2024, arXiv:2403.03206). Read are the base models, which are drawn from in many
steps with guidance by two passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor

from erasediff.errors import BadInput
from erasediff.families.any_size import TOKEN, AnySize, sized, tokens
from erasediff.families.components import QWEN_WORDS, encoder, weights
from erasediff.families.patch_latents import PatchLatents
from erasediff.families.text_maps import JOINT
from erasediff.families.worded import Part, Width
from erasediff.families.words import LIBRARY, check_chat, check_length

try:
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
except ImportError as missing:
    raise BadInput(
        f"FLUX.2 klein needs a newer diffusers than {diffusers.__version__}, which has no Flux2KleinPipeline; "
        "pip install --upgrade diffusers"
    ) from missing

# What the pipeline draws with unless told: how many steps and tokens, and which layers of the text encoder it hears.
DRAWN = {name: given.default for name, given in signature(Flux2KleinPipeline.__call__).parameters.items()}
STEPS, LENGTH, LAYERS = (DRAWN[n] for n in ("num_inference_steps", "max_sequence_length", "text_encoder_out_layers"))


@dataclass
class Flux2Klein(AnySize):
    """A Flux2Transformer2DModel with its AutoencoderKLFlux2 and Qwen 3; see Worded, and AnySize for the size of images.

    A row of the table has ``encoder_hidden_states`` [P, L, 3 D]: three layers of Qwen 3 beside each other, which read
    the prompt as a user's message in a chat. The null condition is the empty message, as the pipeline draws.
    """

    family: str = "flux_2"

    PIPELINE: ClassVar[Any] = Flux2KleinPipeline
    DENOISER: ClassVar[str] = "transformer"
    PARTS: ClassVar[Mapping[str, Part]] = {
        "tokenizer": QWEN_WORDS,
        "transformer": weights(Flux2Transformer2DModel),
        "vae": weights(AutoencoderKLFlux2),
        "text_encoder": encoder(LIBRARY.Qwen3ForCausalLM),
    }
    ENCODERS: ClassVar[tuple[tuple[str, str], ...]] = (("tokenizer", "text_encoder"),)
    OPTIONS: ClassVar[tuple[str, ...]] = ("is_distilled",)
    TEXT_MAPS: ClassVar[Mapping[str, str]] = JOINT

    @classmethod
    def widths(cls, pipeline: Any) -> list[Width]:
        taken, patch = pipeline.transformer.config, 4 * pipeline.vae.config.latent_channels
        return [
            Width("patches of latents", taken.in_channels, patch),
            Width("patches to give back", taken.patch_size**2 * pipeline.transformer.out_channels, patch),
            Width("normalised patches", taken.in_channels, pipeline.vae.bn.num_features),
            Width("text", taken.joint_attention_dim, len(LAYERS) * pipeline.text_encoder.config.hidden_size),
            Width("embedded guidance", int(taken.guidance_embeds), 0),
        ]

    @classmethod
    def check_fit(cls, pipeline: Any) -> None:
        if pipeline.config["is_distilled"]:
            raise BadInput(
                "this FLUX.2 klein is distilled to draw in few steps (is_distilled), which training in all steps "
                "undoes; give the base model that it was distilled from, such as FLUX.2-klein-base-4B"
            )
        check_chat(pipeline.tokenizer)
        layers = pipeline.text_encoder.config.num_hidden_layers
        if layers < max(LAYERS):
            raise BadInput(
                f"the text encoder has {layers} layers, and the pipeline hears layers {', '.join(map(str, LAYERS))}; "
                f"give one of {max(LAYERS)} at least"
            )
        super().check_fit(pipeline)

    @classmethod
    def mu(cls, transformer: Any, scheduler: Any, num_inference_steps: int | None = None) -> float:  # noqa: ARG003
        """The fewer the steps, the more of them in the noise; trained at as many as the pipeline draws in."""
        return float(compute_empirical_mu(tokens(transformer), num_inference_steps or STEPS))

    @property
    def cells(self) -> tuple[int, int]:
        """Height and width of the latents in patches, which are tokens of the transformer."""
        height, width = sized(self.denoiser)
        return height // TOKEN, width // TOKEN

    @property
    def side(self) -> int:
        return self.latents.factor

    @property
    def latents(self) -> PatchLatents:
        return PatchLatents(self.vae)

    def longest(self) -> dict[str, int]:
        return {"tokenizer": LENGTH}

    @torch.no_grad()
    def _row(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        # The whole message must fit: a cut would take the end of the prompt and what the chat says after it.
        chat = [{"role": "user", "content": prompt}]
        how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        said = self.tokenizer.apply_chat_template(chat, **how)
        check_length(self.tokenizer, said, prompt, self.limits()["tokenizer"])
        return self.embedded(pipeline, prompt)

    def embedded(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        options = {"device": self.denoiser.device, "max_sequence_length": self.limits()["tokenizer"]}
        return {"encoder_hidden_states": pipeline.encode_prompt(prompt, **options)[0]}

    def predicted(self, denoiser: Any, x_t: Tensor, t: Tensor, text: dict[str, Tensor]) -> Tensor:
        height, width = x_t.shape[-2:]
        said = denoiser(
            x_t.flatten(2).transpose(1, 2),
            timestep=self.noising.timesteps(t) / 1000,
            **text,
            img_ids=places(height, width, 1, x_t.device),
            txt_ids=places(1, 1, text["encoder_hidden_states"].shape[1], x_t.device),
            return_dict=False,
        )[0]
        return said.transpose(1, 2).unflatten(2, (height, width))


def places(rows: int, columns: int, words: int, device: torch.device) -> Tensor:
    """Where each token stands [rows * columns * words, 4]: image, row, column, word.

    Whole numbers: in half precision the last words of a long prompt would share a place.
    """
    return torch.cartesian_prod(*(torch.arange(n, device=device) for n in (1, rows, columns, words)))


load, adopt = Flux2Klein.load, Flux2Klein.adopt
