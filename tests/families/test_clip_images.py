"""Images as CLIP takes them: what transformers' Pillow processor makes of them is the oracle."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip import image_processing_pil_clip

from erasediff.errors import BadInput
from erasediff.families.clip_images import Preprocessing

CONFIG = {
    "crop_size": {"height": 24, "width": 24},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": 24},
}


def colours(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def floats(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1


def oracle(image, **config):
    processor = image_processing_pil_clip.CLIPImageProcessorPil(**{**CONFIG, **config})
    return processor(Image.fromarray(image), return_tensors="pt").pixel_values


@pytest.mark.parametrize("size", [(24, 24), (24, 31), (40, 24)])
def test_an_image_that_needs_no_resize_is_as_pillow_has_it(size):
    image = colours(*size)
    assert torch.allclose(Preprocessing.of(CONFIG, "here")(floats(image)), oracle(image), atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (16, 20), (23, 23), (64, 64), (50, 131)])
@pytest.mark.parametrize("resample", [2, 3])
def test_a_resized_one_differs_by_one_step_in_a_few_values(size, resample):
    image = colours(*size)
    ours, theirs = (
        Preprocessing.of({**CONFIG, "resample": resample}, "here")(floats(image)),
        oracle(image, resample=resample),
    )
    difference = (ours - theirs).abs() * torch.tensor(CONFIG["image_std"])[:, None, None] * 255
    assert difference.max() < 1.01
    assert (difference > 0.5).float().mean() < {2: 0.1, 3: 0.005}[resample]


def test_rows_are_resized_first():
    """As Pillow always did before version 13, which chooses."""
    image = colours(30, 26)
    steps = Image.fromarray(image).resize((28, 30), 3).resize((28, 20), 3)
    change = {"size": {"height": 20, "width": 28}, "do_center_crop": False}
    found = Preprocessing.of({**CONFIG, **change}, "here")(floats(image))
    assert (found - oracle(np.asarray(steps), do_resize=False, do_center_crop=False)).abs().max() < 0.02


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"height": 24, "width": 24}},
        {"size": 24, "crop_size": 24},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_center_crop": False},
        {"rescale_factor": 0.01},
        {"do_resize": False},
    ],
)
def test_every_setting_is_followed(change):
    image = colours(30, 30)
    found = Preprocessing.of({**CONFIG, **change}, "here")(floats(image))
    assert torch.allclose(found, oracle(image, **change), atol=4.0 if change.get("do_rescale") is False else 0.02)


def test_grey_images_are_shown_as_colour():
    grey = floats(colours(24, 24))[:, :1]
    prepared = Preprocessing.of(CONFIG, "here")
    assert torch.equal(prepared(grey), prepared(grey.expand(-1, 3, -1, -1)))


def test_either_file_of_a_directory_is_read(tmp_path):
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": CONFIG}))
    assert Preprocessing.read(tmp_path) == Preprocessing.of(CONFIG, "here")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**CONFIG, "size": 48}))
    assert Preprocessing.read(tmp_path).resize == 48


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resample": 1}, r"resample 1 is none of 2 \(bilinear\), 3 \(bicubic\)"),
        ({"size": {"longest_edge": 24}}, "is no image processor of CLIP"),
        ({"image_mean": None}, "is no image processor of CLIP"),
    ],
)
def test_other_processors_are_refused(change, said):
    with pytest.raises(BadInput, match=said):
        Preprocessing.of({**CONFIG, **change}, "here")


def test_bad_images_and_directories(tmp_path):
    prepared = Preprocessing.of({**CONFIG, "do_resize": False}, "here")
    with pytest.raises(BadInput, match="grey or colour"):
        prepared(torch.zeros(1, 4, 24, 24))
    with pytest.raises(BadInput, match="24 x 24 are to be cropped"):
        prepared(torch.zeros(1, 3, 8, 8))
    with pytest.raises(BadInput, match=r"preprocessor_config\.json, processor_config\.json is missing"):
        Preprocessing.read(tmp_path)
