"""Stable Diffusion XL in one file: names as published, and diffusers reads the same weights."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from erasediff.families import adopt, one_file, single_file_xl
from tests.families import _tiny_text

# Names and shapes in the file of Stable Diffusion XL 1.0, as its users know them.
PUBLISHED = {
    "model.diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight": (640, 2048),
    "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.ff.net.2.bias": (1280,),
    "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
    "model.diffusion_model.middle_block.1.proj_in.weight": (1280, 1280),
    "model.diffusion_model.output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.8.0.skip_connection.bias": (320,),
    "first_stage_model.decoder.mid.attn_1.q.weight": (512, 512, 1, 1),
    "conditioner.embedders.0.transformer.text_model.encoder.layers.11.self_attn.q_proj.weight": (768, 768),
    "conditioner.embedders.1.model.positional_embedding": (77, 1280),
    "conditioner.embedders.1.model.token_embedding.weight": (49408, 1280),
    "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight": (3840, 1280),
    "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_bias": (3840,),
    "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,),
    "conditioner.embedders.1.model.transformer.resblocks.0.ln_1.weight": (1280,),
    "conditioner.embedders.1.model.ln_final.weight": (1280,),
    "conditioner.embedders.1.model.text_projection": (1280, 1280),
}


@pytest.fixture(scope="module")
def whole():
    """The parts of Stable Diffusion XL 1.0 without numbers."""
    wide = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        first = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
        second = CLIPTextModelWithProjection(CLIPTextConfig(**wide, projection_dim=1280))
    return SimpleNamespace(denoiser=unet, vae=vae, parts={"text_encoder": first, "text_encoder_2": second})


def test_the_names_and_shapes_of_stable_diffusion_xl(whole, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor)  # there are no numbers to be moved
    made = single_file_xl.tensors(whole)
    assert len(made) == 1680 + 248 + 196 + 389
    assert {name: tuple(made[name].shape) for name in PUBLISHED} == PUBLISHED
    assert not [n for n in made if "resnets" in n or "add_embedding" in n]
    assert not [n for n in made if n.startswith(single_file_xl.SECOND) and ("q_proj" in n or "self_attn" in n)]
    assert one_file.inferred(tmp_path, made) == "stabilityai/stable-diffusion-xl-base-1.0"


def test_diffusers_reads_the_same_weights_to_the_last_bit(tmp_path):
    pipeline = _tiny_text.stable_diffusion_xl()
    model = adopt(pipeline)
    model.save(tmp_path / "config")
    single_file_xl.write(model, tmp_path / "model.safetensors")
    again = StableDiffusionXLPipeline.from_single_file(
        str(tmp_path / "model.safetensors"), config=str(tmp_path / "config"), local_files_only=True
    )
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        before, after = getattr(pipeline, part).state_dict(), getattr(again, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before), part
