"""One file in the layout of the first publication: names as published, and diffusers reads the same weights."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

from erasediff.errors import BadInput
from erasediff.families import adopt, single_file
from tests.families import _tiny_text

# Names in the file of Stable Diffusion 1.5, as its users know them.
PUBLISHED_UNET = [
    "time_embed.2.bias",
    "input_blocks.0.0.weight",
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    "input_blocks.3.0.op.weight",
    "input_blocks.4.0.skip_connection.weight",
    "input_blocks.8.1.proj_in.weight",
    "input_blocks.11.0.out_layers.3.weight",
    "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight",
    "middle_block.2.emb_layers.1.bias",
    "output_blocks.2.1.conv.weight",
    "output_blocks.5.2.conv.weight",
    "output_blocks.8.2.conv.bias",
    "output_blocks.11.1.transformer_blocks.0.norm3.weight",
    "out.0.weight",
    "out.2.weight",
]
PUBLISHED_VAE = [
    "encoder.down.0.downsample.conv.weight",
    "encoder.down.1.block.0.nin_shortcut.weight",
    "encoder.mid.attn_1.q.weight",
    "encoder.norm_out.weight",
    "decoder.mid.block_2.conv2.bias",
    "decoder.mid.attn_1.proj_out.weight",
    "decoder.up.3.upsample.conv.weight",
    "decoder.up.0.block.2.norm1.weight",
    "quant_conv.weight",
]


def test_the_names_of_stable_diffusion_1_5():
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    names = [single_file.unet_name(key, unet.config) for key in unet.state_dict()]
    assert len(names) == len(set(names)) == 686
    assert set(PUBLISHED_UNET) <= set(names)
    assert {name.split(".")[0] for name in names} == {
        "time_embed",
        "input_blocks",
        "middle_block",
        "output_blocks",
        "out",
    }
    names = [single_file.vae_name(key, 4) for key in vae.state_dict()]
    assert len(names) == len(set(names)) == 248
    assert set(PUBLISHED_VAE) <= set(names)
    assert not [name for name in names if "blocks" in name or "resnets" in name or "to_" in name]


def test_diffusers_reads_the_same_weights_to_the_last_bit(tmp_path):
    pipeline = _tiny_text.stable_diffusion()
    model = adopt(pipeline)
    model.save(tmp_path / "config")
    single_file.write(model, tmp_path / "model.safetensors")
    again = StableDiffusionPipeline.from_single_file(
        str(tmp_path / "model.safetensors"), config=str(tmp_path / "config"), local_files_only=True
    )
    for part in ("unet", "vae", "text_encoder"):
        before, after = getattr(pipeline, part).state_dict(), getattr(again, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before), part


def test_another_layout_than_1_x_is_refused(tmp_path):
    model = adopt(_tiny_text.stable_diffusion())
    config = {k: v for k, v in _tiny_text.unet().config.items() if not k.startswith("_")}
    two = replace(model, denoiser=UNet2DConditionModel(**{**config, "use_linear_projection": True}))
    with pytest.raises(BadInput, match=r"of Stable Diffusion 1\.x only.*--to full"):
        single_file.write(two, tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()
