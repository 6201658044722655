"""A miniature of Z-Image, built in memory from configurations: nothing is downloaded."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from tests.families._tiny_text import vae

LENGTH = 80
# Qwen's frame of a chat, in short; thinking is not asked for in advance, as in the published one.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
WORDS = ("cat", "dog", "user", "assistant")


def tokenizer(**options) -> Qwen2Tokenizer:
    """Qwen's own tokenizer over bytes and a few words; at most 80 tokens a prompt, in its frame."""
    merges, joined = [], set()
    for word in WORDS:
        for end in range(2, len(word) + 1):
            pair = (word[: end - 1], word[end - 1])
            if "".join(pair) not in joined:
                joined.add("".join(pair))
                merges.append(pair)
    pieces = [*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges), "<|endoftext|>"]
    made = Qwen2Tokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=merges,
        **{"model_max_length": LENGTH, "chat_template": TEMPLATE, **options},
    )
    made.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    return made


def text_encoder(words: Qwen2Tokenizer) -> Qwen3Model:
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=LENGTH // 2,  # less than the tokenizer makes, as published
    )
    return Qwen3Model(config)


def z_image(seed: int = 0, transformer=(), **shifted) -> ZImagePipeline:
    """A ZImagePipeline for 16 x 16 colour images (latents 4 x 8 x 8)."""
    words = tokenizer()
    sizes = {
        "in_channels": 4,
        "dim": 32,
        "n_layers": 2,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 32,
        "axes_dims": [4, 6, 6],
        "axes_lens": [128, 16, 16],
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = ZImageTransformer2DModel(**{**sizes, **dict(transformer)})
        with torch.no_grad():
            # As made, they are zeros and ones, among which a mistake would not be seen.
            for name, weight in denoiser.named_parameters():
                if name.endswith("pad_token") or "norm" in name or name == "cap_embedder.0.weight":
                    weight += 0.3 * torch.randn_like(weight)
        denoiser.register_to_config(_sample_size=8)
        parts = {
            "transformer": denoiser.eval(),
            "vae": vae(scaling_factor=0.4, shift_factor=0.1).eval(),
            "text_encoder": text_encoder(words).eval(),
        }
    scheduler = FlowMatchEulerDiscreteScheduler(**(shifted or {"shift": 3.0}))
    return ZImagePipeline(**parts, tokenizer=words, scheduler=scheduler)
