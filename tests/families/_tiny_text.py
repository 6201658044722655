"""Miniatures of text-conditioned pipelines, built in memory from configurations: nothing is downloaded."""

import string
from inspect import signature

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

LENGTH = 16
T5_LENGTH = 24
MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]


def tokenizer() -> CLIPTokenizer:
    """CLIP's own tokenizer over letters, digits, a few signs, "cat" and "dog"; at most 16 tokens a prompt."""
    letters = [*string.ascii_lowercase, *string.digits, *".,-'!"]
    words = [*letters, *(c + "</w>" for c in letters), *map("".join, MERGES), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=MERGES, model_max_length=LENGTH)


def t5_tokenizer() -> T5TokenizerFast:
    """T5's own tokenizer over the same letters and the same two words; at most 24 tokens a prompt."""
    signs = [*string.ascii_lowercase, *string.digits, *".,-'!"]
    pieces = [(f"\u2581{word}", -1.0) for word in ("cat", "dog")]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    words = [*special, *((sign, -3.0) for sign in signs), *pieces]
    return T5TokenizerFast(vocab=words, extra_ids=0, model_max_length=T5_LENGTH)


def t5_encoder(words: T5TokenizerFast) -> T5EncoderModel:
    config = T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    return T5EncoderModel(config)


def text_encoder(words: CLIPTokenizer, kind=CLIPTextModel, width: int = 32) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    encoder = kind(config)
    with torch.no_grad():
        # As drawn, all prompts say almost the same.
        encoder.get_input_embeddings().weight.normal_()
    return encoder


def unet(**options) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=4,
        **{"cross_attention_dim": 32, **options},
    )


def vae(**options) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        **options,
    )


def scheduler(kind=DDIMScheduler, prediction_type="epsilon", **options):
    """Stable Diffusion's betas in a scheduler of any class."""
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    if "clip_sample" in signature(kind).parameters:
        options["clip_sample"] = False
    return kind(**betas, prediction_type=prediction_type, steps_offset=1, **options)


def stable_diffusion(prediction_type: str = "epsilon", seed: int = 0) -> StableDiffusionPipeline:
    """A StableDiffusionPipeline for 16 x 16 colour images (latents 4 x 8 x 8)."""
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


def stable_diffusion_xl(seed: int = 0, **options) -> StableDiffusionXLPipeline:
    """A StableDiffusionXLPipeline for 16 x 16 colour images, with two encoders 32 and 16 wide."""
    words = tokenizer()
    sizes = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {
            "unet": unet(cross_attention_dim=48, projection_class_embeddings_input_dim=40, **sizes).eval(),
            "vae": vae().eval(),
            "text_encoder": text_encoder(words).eval(),
            "text_encoder_2": text_encoder(words, CLIPTextModelWithProjection, 16).eval(),
        }
    return StableDiffusionXLPipeline(
        **parts,
        tokenizer=words,
        tokenizer_2=tokenizer(),
        scheduler=scheduler(EulerDiscreteScheduler, timestep_spacing="leading"),
        **options,
    )


def stable_diffusion_3(seed: int = 0, t5: bool = True, **shifted) -> StableDiffusion3Pipeline:
    """A StableDiffusion3Pipeline for 16 x 16 colour images, with or without its T5."""
    words, long = tokenizer(), t5_tokenizer() if t5 else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=32,
            pos_embed_max_size=8,
        )
        parts = {
            "transformer": transformer.eval(),
            "vae": vae(scaling_factor=1.5, shift_factor=0.06).eval(),
            "text_encoder": text_encoder(words, CLIPTextModelWithProjection, 16).eval(),
            "text_encoder_2": text_encoder(words, CLIPTextModelWithProjection, 16).eval(),
            "text_encoder_3": t5_encoder(long).eval() if t5 else None,
        }
    return StableDiffusion3Pipeline(
        **parts,
        tokenizer=words,
        tokenizer_2=tokenizer(),
        tokenizer_3=long,
        scheduler=FlowMatchEulerDiscreteScheduler(**(shifted or {"shift": 3.0})),
    )


def flux(seed: int = 0, guidance_embeds: bool = True, **shifted) -> FluxPipeline:
    """A FluxPipeline for 16 x 16 colour images, guidance-distilled (dev) or not (schnell)."""
    words, long = tokenizer(), t5_tokenizer()
    dynamic = {"use_dynamic_shifting": True, "shift": 3.0, "base_image_seq_len": 4, "max_image_seq_len": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 4, 8),
        )
        transformer.register_to_config(_sample_size=8)
        parts = {
            "transformer": transformer.eval(),
            "vae": vae(scaling_factor=0.4, shift_factor=0.1).eval(),
            "text_encoder": text_encoder(words).eval(),
            "text_encoder_2": t5_encoder(long).eval(),
        }
    return FluxPipeline(
        **parts, tokenizer=words, tokenizer_2=long, scheduler=FlowMatchEulerDiscreteScheduler(**(shifted or dynamic))
    )


def sana(seed: int = 0, scheduler=None) -> SanaPipeline:
    """A SanaPipeline for 32 x 32 colour images (latents 4 x 8 x 8), in DPM-Solver's schedule of flow sigmas."""
    signs = [*string.ascii_lowercase, *string.digits, *".,-'!", "\u2581"]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = GemmaTokenizerFast(vocab={word: n for n, word in enumerate([*special, *signs])}, merges=[])
    begin = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", words.bos_token_id)])
    words.backend_tokenizer.post_processor = begin
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8}
    deep = {"layers_per_block": (1, 1, 1), "block_out_channels": (16, 16, 16), "qkv_multiscales": ((), (), ())}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=32,
            sample_size=8,
        )
        autoencoder = AutoencoderDC(
            latent_channels=4,
            attention_head_dim=8,
            encoder_block_types="ResBlock",
            decoder_block_types="ResBlock",
            scaling_factor=0.41,
            **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in deep.items()},
        )
        gemma = Gemma2Config(
            vocab_size=len(words), num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager", **sizes
        )
        parts = {
            "transformer": transformer.eval(),
            "vae": autoencoder.eval(),
            "text_encoder": Gemma2Model(gemma).eval(),
        }
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    return SanaPipeline(**parts, tokenizer=words, scheduler=scheduler or DPMSolverMultistepScheduler(**flow))


def pixart(kind=PixArtSigmaPipeline, seed: int = 0, sizes: bool = False) -> PixArtSigmaPipeline | PixArtAlphaPipeline:
    """A PixArt pipeline for 16 x 16 colour images, with a learned variance; ``sizes``: told the size of the image."""
    long = t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = PixArtTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=3,
            cross_attention_dim=24,
            caption_channels=32,
            use_additional_conditions=sizes,
        )
        parts = {"transformer": transformer.eval(), "vae": vae().eval(), "text_encoder": t5_encoder(long).eval()}
    return kind(**parts, tokenizer=long, scheduler=scheduler(DPMSolverMultistepScheduler))
