"""How the parts are read of which text-to-image pipelines are made."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel

from erasediff.families.reading import TRANSFORMERS, read_part, read_tokenizer
from erasediff.families.worded import Part
from erasediff.families.words import CLIP_FILES, LIBRARY, QWEN_FILES, T5_FILES


def weights(kind: Any) -> Part:
    """A module of diffusers."""
    return Part(partial(read_part, kind=kind))


def encoder(kind: Any) -> Part:
    """A module of transformers."""
    return Part(partial(read_part, kind=kind, stem=TRANSFORMERS))


UNET, VAE = weights(UNet2DConditionModel), weights(AutoencoderKL)
CLIP_TEXT, CLIP_PROJECTED = encoder(LIBRARY.CLIPTextModel), encoder(LIBRARY.CLIPTextModelWithProjection)
CLIP_WORDS = Part(partial(read_tokenizer, kind=LIBRARY.CLIPTokenizer, files=CLIP_FILES))
T5_TEXT = encoder(LIBRARY.T5EncoderModel)
T5_WORDS = Part(partial(read_tokenizer, kind=LIBRARY.T5TokenizerFast, files=T5_FILES))
QWEN_WORDS = Part(partial(read_tokenizer, kind=LIBRARY.Qwen2Tokenizer, files=QWEN_FILES))


def optional(part: Part) -> Part:
    """The same part, where a pipeline may do without it."""
    return replace(part, optional=True)
