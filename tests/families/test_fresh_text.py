"""An untrained text-to-image pipeline: its codec is the identity, its parts fit, plain diffusers draws with it."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from erasediff.errors import BadInput
from erasediff.families import load
from erasediff.families.architecture import Architecture
from erasediff.families.fresh_text import fresh_text, pixel_codec

CAPTIONS = ["a cat", "a dog", "two cats"]
SMALL = {"block_out_channels": (8, 8), "num_train_timesteps": 100}


def small(channels=1, side=8, **options):
    torch.manual_seed(0)
    return fresh_text((channels, side, side), CAPTIONS, seed=0, **{**SMALL, **options})


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("images", ["noise", "black", "white", "one bright pixel"])
def test_the_codec_gives_every_image_back(channels, images):
    codec = pixel_codec(channels, 8)
    x = {
        "noise": torch.rand(2, channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1,
        "black": -torch.ones(2, channels, 8, 8),
        "white": torch.ones(2, channels, 8, 8),
        "one bright pixel": torch.zeros(2, channels, 8, 8).index_fill_(3, torch.tensor([3]), 1.0),
    }[images]
    posterior = codec.encode(x).latent_dist
    assert (posterior.mode() - x).abs().max() < 5e-5
    assert (posterior.sample(torch.Generator().manual_seed(0)) - x).abs().max() < 5e-5
    assert (codec.decode(x).sample - x).abs().max() < 5e-5


def test_it_is_loaded_and_drawn_with_by_plain_diffusers(tmp_path):
    made = small()
    made.save(tmp_path / "model")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    images = pipe(["a cat", "cats?"], num_inference_steps=2, guidance_scale=2.0, output_type="np").images
    assert images.shape == (2, 8, 8, 1)
    again = load(tmp_path / "model").with_prompts(CAPTIONS)
    assert again.image_shape == (1, 8, 8)
    x, t, labels = torch.randn(3, 1, 8, 8), torch.tensor([1, 50, 99]), torch.arange(3)
    assert torch.equal(again.ask(again.denoiser, x, t, labels), made.ask(made.denoiser, x, t, labels))


def test_captions_are_its_classes_and_it_hears_them():
    made = small()
    assert made.class_names == tuple(CAPTIONS)
    assert (made.conditions.num_classes, made.conditions.null_label) == (3, 3)
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([50])
    said = [made.ask(made.denoiser, x, t, torch.tensor([c])) for c in range(4)]
    assert all((a - b).abs().max() > 1e-6 for i, a in enumerate(said) for b in said[:i])


@pytest.mark.parametrize(("levels", "kinds"), [((), "DC"), ((0,), "CD"), ((0, 1), "CC")])
def test_levels_that_attend(levels, kinds):
    blocks = small(attention_levels=levels).denoiser.config.down_block_types
    assert "".join("C" if "Cross" in block else "D" for block in blocks) == kinds


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"side": 7}, "7 x 7 cannot be halved 1 times"),
        ({"attention_levels": (2,)}, "attention_levels must lie between 0 and 1, got 2"),
    ],
)
def test_what_cannot_be_built(given, said):
    with pytest.raises(BadInput, match=said):
        small(**given)


def test_images_that_are_not_square():
    with pytest.raises(BadInput, match="square images, got 8 x 10"):
        fresh_text((1, 8, 10), CAPTIONS, seed=0)


@pytest.mark.parametrize("given", [{"prediction_type": "sample"}, {"unconditional": True}])
def test_settings_that_a_text_model_does_not_have(given):
    with pytest.raises(BadInput, match=r"prediction_type 'sample'|conditional"):
        Architecture(**given).build_for_captions((1, 8, 8), CAPTIONS, seed=0)
