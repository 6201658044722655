"""A miniature of Qwen-Image, built in memory from configurations: nothing is downloaded."""

from itertools import pairwise

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import pre_tokenizers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

LENGTH = 24
# The words of the instruction that the pipeline puts around every prompt, whose first 34 tokens it drops again.
SAID = (
    "system user assistant Describe the image by detailing color shape size texture quantity text spatial "
    "relationships of objects and background cat dog"
)
WORDS = SAID.split()


def merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte pairs that make one token of each word, in the order in which they are joined."""
    rank: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = list(word)
        while len(pieces) > 1:
            found = [(rank[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in rank]
            i = min(found)[1] if found else 0
            rank.setdefault((pieces[i], pieces[i + 1]), len(rank))
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return list(rank)


def tokenizer() -> Qwen2Tokenizer:
    """Qwen's own tokenizer over all bytes and few words; at most 24 tokens a prompt."""
    joined = merges([form for word in WORDS for form in (word, f"\u0120{word}")])
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *dict.fromkeys(map("".join, joined))]
    marks = ["<|im_start|>", "<|im_end|>"]
    return Qwen2Tokenizer(
        vocab={word: number for number, word in enumerate([*words, "<|endoftext|>"])},
        merges=joined,
        model_max_length=LENGTH,
        additional_special_tokens=marks,
    )


def text_encoder(words: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    text = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    marks = {f"{kind}_token_id": 0 for kind in ("image", "video", "vision_start", "vision_end")}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **marks))
    with torch.no_grad():
        # As drawn, all prompts say almost the same.
        encoder.get_input_embeddings().weight.normal_()
    return encoder


def qwen_image(seed: int = 0, transformer: dict | None = None, **shifted) -> QwenImagePipeline:
    """A QwenImagePipeline for 16 x 16 colour images (latents 4 x 8 x 8, of one frame)."""
    words = tokenizer()
    dynamic = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 32, "shift_terminal": 0.02}
    sizes = {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "axes_dims_rope": (4, 6, 6),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = QwenImageTransformer2DModel(**{**sizes, **(transformer or {})})
        denoiser.register_to_config(_sample_size=8)
        with torch.no_grad():
            # As made it is 1, as if what it does to the text did not matter.
            denoiser.txt_norm.weight.uniform_(0.5, 2)
        autoencoder = AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[-0.3, 0.1, 0.2, -0.1],
            latents_std=[0.5, 1.5, 0.8, 1.2],
        )
        parts = {"transformer": denoiser.eval(), "vae": autoencoder.eval(), "text_encoder": text_encoder(words).eval()}
    scheduler = FlowMatchEulerDiscreteScheduler(**(shifted or dynamic))
    return QwenImagePipeline(**parts, tokenizer=words, scheduler=scheduler)
