"""Miniatures of text-conditioned pipelines, built in memory from configurations: nothing is downloaded."""

import string
from inspect import signature

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LENGTH = 16
MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]


def tokenizer() -> CLIPTokenizer:
    """CLIP's own tokenizer over letters, digits, a few signs, "cat" and "dog"; at most 16 tokens a prompt."""
    letters = [*string.ascii_lowercase, *string.digits, *".,-'!"]
    words = [*letters, *(c + "</w>" for c in letters), *map("".join, MERGES), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=MERGES, model_max_length=LENGTH)


def text_encoder(words: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    encoder = CLIPTextModel(config)
    with torch.no_grad():
        # As drawn, all prompts say almost the same.
        encoder.get_input_embeddings().weight.normal_()
    return encoder


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )


def scheduler(kind=DDIMScheduler, prediction_type="epsilon", **options):
    """Stable Diffusion's betas in a scheduler of any class."""
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    if "clip_sample" in signature(kind).parameters:
        options["clip_sample"] = False
    return kind(**betas, prediction_type=prediction_type, steps_offset=1, **options)


def stable_diffusion(prediction_type: str = "epsilon", seed: int = 0) -> StableDiffusionPipeline:
    """A StableDiffusionPipeline of about 400,000 weights for 16 x 16 colour images (latents 4 x 8 x 8)."""
    words = tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {"unet": unet().eval(), "vae": vae().eval(), "text_encoder": text_encoder(words).eval()}
    return StableDiffusionPipeline(
        **parts,
        tokenizer=words,
        scheduler=scheduler(prediction_type=prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
