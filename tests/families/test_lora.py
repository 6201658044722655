"""LoRA files: merging is the formula, kohya's names are those that diffusers writes, bad files are refused."""

import json

import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import load_file, save_file

from erasediff.errors import BadInput
from erasediff.families.lora import PEFT_CONFIG, PEFT_FILE, PIPELINE_FILE, Lora, read, write, write_kohya
from erasediff.families.tiny import TINY
from tests.families import _tiny_text

LAYERS = {"mid_block.attentions.0.to_q": (16, 16), "mid_block.attentions.0.to_out.0": (16, 16)}
TEXT = "mid_block.attentions.0.transformer_blocks.0.attn2"
DIFFUSERS = (
    f"{TEXT}.to_k",
    f"{TEXT}.to_out.0",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "conv_in",
)


def drawn(layers, rank=2, alpha=3.0):
    source = torch.Generator().manual_seed(0)
    pairs = {
        n: (torch.randn(rank, i, generator=source), torch.randn(o, rank, generator=source)) for n, (o, i) in layers
    }
    return Lora(rank, alpha, pairs)


@pytest.fixture
def unet():
    return TINY["unet2d"]().denoiser


@pytest.fixture
def lora(unet):
    return drawn([(name, unet.get_submodule(name).weight.shape) for name in LAYERS])


def test_merging_is_the_formula_and_touches_no_other_weight(unet, lora):
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    lora.merge(unet)
    after = unet.state_dict()
    for name, (a, b) in lora.tensors.items():
        slow = before[f"{name}.weight"].double() + 1.5 * torch.einsum("or,ri->oi", b.double(), a.double())
        assert torch.allclose(after[f"{name}.weight"].double(), slow, atol=1e-5)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {f"{name}.weight" for name in LAYERS}


def test_a_convolutions_change_is_the_convolution_by_both_in_turn(unet):
    """An oracle that multiplies nothing out: convolve with A, then with B."""
    source = torch.Generator().manual_seed(0)
    conv = unet.down_blocks[0].resnets[0].conv1
    a, b = torch.randn(2, 8, 3, 3, generator=source), torch.randn(8, 2, 1, 1, generator=source)
    x = torch.randn(1, 8, 5, 5, generator=source)
    with torch.no_grad():
        slow = conv(x) + 1.5 * torch.conv2d(torch.conv2d(x, a, padding=1), b)
        Lora(2, 3.0, {"down_blocks.0.resnets.0.conv1": (a, b)}).merge(unet)
        assert torch.allclose(conv(x), slow, atol=1e-4)


@pytest.mark.parametrize("family", ["unet2d", "words"])
def test_what_is_written_is_read_again(family, tmp_path, lora):
    pipeline = _tiny_text.stable_diffusion() if family == "words" else TINY[family]().pipeline()
    write(lora, pipeline, tmp_path / "lora")
    again = read(tmp_path / "lora")
    assert (again.rank, again.alpha) == (2, 3.0)
    assert set(again.layers) == set(lora.layers)
    assert all(torch.equal(x, y) for n in lora.tensors for x, y in zip(again.tensors[n], lora.tensors[n], strict=True))
    file, prefix = (PIPELINE_FILE, "unet.") if family == "words" else (PEFT_FILE, "base_model.model.")
    assert all(name.startswith(prefix) for name in load_file(tmp_path / "lora" / file))


def test_kohyas_names_are_those_that_diffusers_writes_and_its_alpha_is_ours(tmp_path):
    lora = drawn([(name, (8, 8)) for name in DIFFUSERS])
    write(lora, _tiny_text.stable_diffusion(), tmp_path / "lora")
    write_kohya(tmp_path / "lora", tmp_path / "kohya.safetensors")
    ours = load_file(tmp_path / "kohya.safetensors")
    theirs = convert_state_dict_to_kohya(lora.keyed("unet"))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        if name.endswith(".alpha"):
            assert tensor.item() == 3.0  # diffusers writes the rank whatever alpha is
        else:
            assert torch.equal(tensor, theirs[name])


@pytest.mark.parametrize(
    ("layer", "shape", "said"),
    [("nowhere", (4, 4), "this UNet2DModel has no such layer"), ("conv_in", (4, 4), r"has one of \[8, 1, 3, 3\]")],
)
def test_a_lora_for_another_model_changes_nothing(unet, lora, layer, shape, said):
    other = Lora(2, 3.0, {**lora.tensors, **drawn([(layer, shape)]).tensors})
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    with pytest.raises(BadInput, match=said):
        other.merge(unet)
    assert all(torch.equal(before[k], v) for k, v in unet.state_dict().items())


def test_files_that_are_no_lora(tmp_path, lora):
    with pytest.raises(BadInput, match="holds no LoRA"):
        read(tmp_path)
    (tmp_path / PIPELINE_FILE).write_bytes(b"nonsense")
    with pytest.raises(BadInput, match="is no LoRA that erasediff wrote"):
        read(tmp_path)
    save_file({"unet.a.lora_A.weight": torch.zeros(2, 2)}, tmp_path / PIPELINE_FILE)
    with pytest.raises(BadInput, match=r"is no LoRA that erasediff wrote: .r."):
        read(tmp_path)
    (tmp_path / PIPELINE_FILE).unlink()
    write(lora, TINY["unet2d"]().pipeline(), tmp_path / "lora")
    (tmp_path / "lora" / PEFT_CONFIG).write_text(json.dumps({"r": 2}))
    with pytest.raises(BadInput, match=r"is no LoRA that erasediff wrote: .lora_alpha."):
        read(tmp_path / "lora")
    (tmp_path / "lora" / PEFT_CONFIG).unlink()
    with pytest.raises(BadInput, match="does not exist"):
        read(tmp_path / "lora")
