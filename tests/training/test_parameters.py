"""Which weights are trained: sets by module path, the same on every kind of denoiser."""

import diffusers
import pytest
import torch
from tests.families import _tiny_text

from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.training.config import TrainingConfig
from erasediff.training.parameters import SETS, named, select

SD3 = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 16,
    "pos_embed_max_size": 8,
    "dual_attention_layers": (0,),
    "qk_norm": "rms_norm",
}
FLUX = {
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 16,
    "axes_dims_rope": (4, 4, 8),
}
MODELS = {
    "unet2d": lambda: TINY["unet2d"]().denoiser,
    "dit": lambda: TINY["dit"]().denoiser,
    "stable_diffusion": _tiny_text.unet,
    "stable_diffusion_3": lambda: diffusers.SD3Transformer2DModel(**SD3),
    "flux": lambda: diffusers.FluxTransformer2DModel(**FLUX),
}


@pytest.fixture(scope="module")
def models():
    return {name: make() for name, make in MODELS.items()}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("half", ["attention", "cross_attention"])
def test_a_set_and_its_negation_are_all_weights_and_share_none(models, model, half):
    module = models[model]
    ours, others = SETS[half](module), SETS[f"no_{half}"](module)
    assert ours | others == {name for name, _ in module.named_parameters()}
    assert not ours & others
    assert SETS["cross_attention"](module) <= SETS["attention"](module)


def test_cross_attention_of_a_unet_is_attn2(models):
    found = named(models["stable_diffusion"], "cross_attention")
    assert found == [n for n, _ in models["stable_diffusion"].named_parameters() if ".attn2." in n]
    assert "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight" in found


def test_cross_attention_of_a_joint_block_is_the_stream_of_the_text(models):
    found = named(models["stable_diffusion_3"], "cross_attention")
    assert "transformer_blocks.0.attn.add_k_proj.weight" in found
    assert "transformer_blocks.0.attn.to_add_out.weight" in found
    assert "transformer_blocks.0.attn.norm_added_q.weight" in found
    # SD 3.5's second attention is of the image on itself, whatever its name.
    assert any(".attn2." in n for n in named(models["stable_diffusion_3"], "attention"))
    assert not any(".attn2." in n or ".to_q." in n for n in found)


def test_a_single_block_of_flux_has_attention_and_none_of_it_is_cross(models):
    assert "single_transformer_blocks.0.attn.to_q.weight" in named(models["flux"], "attention")
    assert not any(n.startswith("single") for n in named(models["flux"], "cross_attention"))


def test_attention_is_its_projections_and_norms_and_not_the_block_around_them(models):
    assert {n.split(".")[3] for n in named(models["unet2d"], "attention")} == {
        "group_norm",
        "to_q",
        "to_k",
        "to_v",
        "to_out",
    }
    assert not any(".ff." in n for n in named(models["stable_diffusion"], "attention"))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("conv_in.weight", ["conv_in.weight"]),
        ("conv_in", ["conv_in.weight", "conv_in.bias"]),
        ("conv_in.bias, conv_out.b*", ["conv_in.bias", "conv_out.bias"]),
        ("*.to_out", ["mid_block.attentions.0.to_out.0.weight", "mid_block.attentions.0.to_out.0.bias"]),
    ],
)
def test_globs_name_weights_and_modules(models, spec, expected):
    assert named(models["unet2d"], spec) == expected


def test_select_lets_gradients_flow_to_what_was_named_and_to_no_other():
    module = MODELS["unet2d"]()
    trained = select(module, "attention")
    assert list(trained) == named(module, "attention")
    assert {n for n, p in module.named_parameters() if p.requires_grad} == set(trained)


@pytest.mark.parametrize("model", ["unet2d", "dit"])
def test_a_model_without_cross_attention_says_what_it_has(models, model):
    with pytest.raises(BadInput, match=r"names no weight of this .*Model; it has: full, no_cross_attention, attention"):
        named(models[model], "cross_attention")


def test_a_misspelled_set_is_told_the_nearest(models):
    with pytest.raises(BadInput, match=r"'cros_attention'.*did you mean cross_attention"):
        named(models["stable_diffusion"], "cros_attention")


def test_a_model_without_attention():
    with pytest.raises(BadInput, match="it has: full, no_cross_attention, no_attention"):
        named(torch.nn.Sequential(torch.nn.Linear(2, 2)), "attention")


def test_the_sets_stand_in_the_help(capsys):
    from erasediff.cli.erase import parser

    text = " ".join(parser("erasediff").format_help().split())
    assert f"Names: {', '.join(SETS)}." in text


@pytest.mark.parametrize(
    ("given", "decided"),
    [({}, "full"), ({"rank": 2}, "attention"), ({"rank": 2, "parameters": "full"}, "full"), ({"parameters": "x"}, "x")],
)
def test_auto_is_decided_by_the_rank(given, decided):
    assert TrainingConfig(**given).decided().parameters == decided


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"lora_alpha": 4.0}, "give a rank"),
        ({"rank": 2, "lora_alpha": 0.0}, "above 0"),
    ],
)
def test_bad_ranks(given, said):
    with pytest.raises(BadInput, match=said):
        TrainingConfig(**given)
