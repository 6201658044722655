"""CLIP as it is given: embeddings like transformers' own, and everything that is refused."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip import image_processing_pil_clip

from erasediff.auditing.clip import Clip
from erasediff.auditing.features import extractor
from erasediff.errors import BadInput
from tests.auditing import _tiny_clip

TEXTS = ["a cat", "a dog on a hat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return _tiny_clip.saved(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="module")
def clip(folder):
    return Clip.load(folder)


@pytest.fixture
def broken(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "broken")


def pictures(count=5, side=_tiny_clip.SIDE):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_embeddings_are_those_of_transformers_own_forward_pass(clip, folder):
    module, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    seen = ((pictures() + 1) * 127.5).round().to(torch.uint8)
    shown = image_processing_pil_clip.CLIPImageProcessorPil(**_tiny_clip.PREPARED)(list(seen), return_tensors="pt")
    with torch.no_grad():
        found = module(**tokenizer(TEXTS, padding=True, return_tensors="pt"), **shown)
    ours = clip.images(pictures())
    assert torch.allclose(torch.nn.functional.normalize(ours), found.image_embeds, atol=1e-5)
    assert torch.allclose(clip.texts(TEXTS), found.text_embeds, atol=1e-5)
    assert not torch.allclose(ours.norm(dim=1), torch.ones(5))  # as features they keep their length


def test_the_order_of_images_does_not_matter(clip):
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(clip.images(pictures()[order]), clip.images(pictures())[order], atol=1e-5)
    assert clip.images(pictures()[:0]).shape == (0, _tiny_clip.WIDTH)
    assert torch.equal(clip.texts(TEXTS[::-1]), clip.texts(TEXTS).flip(0))


def test_it_is_a_feature_space(clip):
    assert torch.equal(extractor("clip", clip=clip)(pictures()), clip.images(pictures()))
    with pytest.raises(BadInput, match="give --clip DIR"):
        extractor("clip")


def test_the_fingerprint_tells_weights_words_and_preparation(clip, folder, tmp_path):
    assert Clip.load(folder).fingerprint == clip.fingerprint
    others = [
        _tiny_clip.saved(tmp_path / "weights", seed=1),
        _tiny_clip.saved(tmp_path / "prepared", image_mean=[0.5, 0.5, 0.5]),
    ]
    assert len({clip.fingerprint, *(Clip.load(o).fingerprint for o in others)}) == 3
    assert clip.title == f"tiny-clip (sha256 {clip.fingerprint[:12]})"


def test_a_text_that_would_be_cut(clip):
    with pytest.raises(
        BadInput, match="has 20 tokens with start and end, and CLIP tiny-clip reads 16: it would be cut"
    ):
        clip.texts(["x " * 18])


def test_what_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="does not exist; give a directory with a CLIP model, or a Hub id"):
        Clip.load(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="cannot be had from the Hub"):
        Clip.load("nobody/no-such-clip")
    with pytest.raises(BadInput, match=r"config\.json is missing"):
        Clip.load(tmp_path)


def test_pickles_are_never_read(broken):
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"has no model\.safetensors; pytorch_model\.bin is never unpickled .*convert"):
        Clip.load(broken)


def test_without_transformers(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadInput, match=r'pip install "erasediff\[text\]"'):
        Clip.load(folder)


def changed(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: changed(f / "config.json", model_type="siglip"), "type siglip; read is clip"),
        (lambda f: [p.unlink() for p in f.glob("*token*.json")], "has no tokenizer"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "does not say how images are prepared"),
        (
            lambda f: changed(f / "preprocessor_config.json", crop_size=8),
            r"prepared to \(8, 8\) pixels.*looks at 16 x 16",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"nothing"), "cannot be read as a CLIP model"),
    ],
)
def test_directories_that_are_broken(broken, damage, said):
    damage(broken)
    with pytest.raises(BadInput, match=said):
        Clip.load(broken)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda weights: weights.pop("visual_projection.weight"), "lacks 1 weights of a CLIP model, first visual_proj"),
        (lambda weights: weights["text_projection.weight"].fill_(np.nan), "not finite"),
    ],
)
def test_weights_that_are_missing_or_broken(broken, damage, said):
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    damage(weights)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=said):
        Clip.load(broken)
