"""A miniature of FLUX.2 klein, built in memory from configurations: nothing is downloaded."""

import string

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM

LENGTH = 32  # tokens of a prompt, 14 of them the chat's
WORDS = ("cat", "dog", "user", "assistant")
SIGNS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)


def tokenizer(**options) -> Qwen2TokenizerFast:
    """Qwen's own tokenizer over letters, digits, a few signs and four words, with a chat template of Qwen's form."""
    letters = [*string.ascii_lowercase, *string.digits, *".,-'!", "\u0120", "\u010a"]  # the last: space and line end
    merges = [(word[:n], word[n]) for word in WORDS for n in range(1, len(word))]
    vocabulary = ["<|endoftext|>", *letters, *dict.fromkeys(map("".join, merges))]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    settings = {"model_max_length": LENGTH, "chat_template": CHAT, **options}
    words = Qwen2TokenizerFast(vocab=numbers, merges=merges, **settings)
    words.add_tokens(list(SIGNS), special_tokens=True)
    return words


def vae(channels: int = 1, levels: int = 1) -> AutoencoderKLFlux2:
    """An autoencoder whose patches have statistics of their own each."""
    made = AutoencoderKLFlux2(
        block_out_channels=(16,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
    )
    with torch.no_grad():
        made.bn.running_mean.normal_(std=0.3)
        made.bn.running_var.uniform_(0.3, 2.0)
    return made


def flux_2(seed: int = 0, layers: int = 28, distilled: bool = False, **shifted) -> Flux2KleinPipeline:
    """A Flux2KleinPipeline for 16 x 16 colour images (patches 4 x 8 x 8)."""
    words = tokenizer()
    qwen = Qwen3Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = Flux2Transformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=96,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        transformer.register_to_config(_sample_size=16)
        parts = {
            "transformer": transformer.eval(),
            "vae": vae().eval(),
            "text_encoder": Qwen3ForCausalLM(qwen).eval(),
        }
    scheduler = FlowMatchEulerDiscreteScheduler(**(shifted or {"use_dynamic_shifting": True, "shift": 3.0}))
    return Flux2KleinPipeline(**parts, tokenizer=words, scheduler=scheduler, is_distilled=distilled)
