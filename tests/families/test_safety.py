"""The safety checker of a pipeline: it flags the image that it was made to flag, however the pipeline was had."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from erasediff import families
from erasediff.errors import BadInput
from erasediff.families.safety import SafetyChecker
from tests.families import _tiny_checker, _tiny_text

CHOSEN = 3


@pytest.fixture(scope="module")
def images():
    """Noise, and one of a single colour."""
    drawn = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn[CHOSEN] = torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    return drawn


@pytest.fixture(scope="module")
def pipeline(images):
    extractor, made = _tiny_checker.feature_extractor(), _tiny_text.stable_diffusion()
    seen = ((images[CHOSEN] + 1) * 127.5).round().to(torch.uint8)
    shown = extractor(seen, return_tensors="pt").pixel_values
    parts = {**made.components, "feature_extractor": extractor}
    parts["safety_checker"] = _tiny_checker.wary_of(_tiny_checker.checker(), shown)
    return type(made)(**parts)


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory):
    place = tmp_path_factory.mktemp("safety") / "pipeline"
    pipeline.save_pretrained(place)
    return place


@pytest.fixture
def broken(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "broken")


def flagged(model, images):
    return SafetyChecker.of(model).flagged(images).nonzero()[0].tolist()


def test_it_flags_the_chosen_image_alone(pipeline, saved, images, capfd):
    before = images.clone()
    assert flagged(families.adopt(pipeline), images) == [CHOSEN]
    assert flagged(families.load(saved), images) == [CHOSEN]
    assert torch.equal(images, before)  # nothing is blackened
    assert capfd.readouterr() == ("", "")


def test_what_is_saved_again_keeps_it(saved, images, tmp_path):
    families.load(saved).save(tmp_path / "again")
    assert flagged(families.load(tmp_path / "again"), images) == [CHOSEN]


def test_keys_of_published_checkers_are_read(broken, images):
    """They were written when CLIP's vision model stood one level deeper."""
    file = broken / "safety_checker" / "model.safetensors"
    flat = {k.replace("vision_model.vision_model.", "vision_model."): v for k, v in load_file(file).items()}
    deep = {k.replace("vision_model.", "vision_model.vision_model."): v for k, v in flat.items()}
    save_file(deep, file.with_name("model.fp16.safetensors"), metadata={"format": "pt"})
    file.unlink()
    assert flagged(families.load(broken), images) == [CHOSEN]


def test_the_fingerprint_tells_weights(pipeline, saved, broken):
    file = broken / "safety_checker" / "model.safetensors"
    weights = load_file(file)
    weights["concept_embeds_weights"] += 0.1
    save_file(weights, file, metadata={"format": "pt"})
    other = SafetyChecker.of(families.load(broken))
    assert other.fingerprint != SafetyChecker.of(families.load(saved)).fingerprint
    adopted = SafetyChecker.of(families.adopt(pipeline))
    assert adopted.fingerprint == SafetyChecker.of(families.adopt(pipeline)).fingerprint


def drop(place, *names):
    for name in names:
        (place / name).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: (p / "safety_checker" / "model.safetensors").rename(p / "safety_checker" / "pytorch_model.bin"),
        lambda p: shutil.rmtree(p / "safety_checker"),
        lambda p: (p / "model_index.json").write_text(
            json.dumps({**json.loads((p / "model_index.json").read_text()), "feature_extractor": [None, None]})
        ),
    ],
)
def test_a_pipeline_without_a_readable_one(broken, damage):
    damage(broken)
    assert SafetyChecker.of(families.load(broken)) is None


def test_models_without_one():
    assert SafetyChecker.of(families.adopt(_tiny_text.stable_diffusion())) is None
    assert SafetyChecker.of(SimpleNamespace()) is None


def test_missing_weights(broken, images):
    file = broken / "safety_checker" / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != "concept_embeds"}, file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match="lacks 1 weights of a StableDiffusionSafetyChecker, first concept_embeds"):
        SafetyChecker.of(families.load(broken)).flagged(images)
    file.write_bytes(b"nothing")
    with pytest.raises(BadInput, match="cannot be read as a StableDiffusionSafetyChecker"):
        SafetyChecker.of(families.load(broken)).flagged(images)
