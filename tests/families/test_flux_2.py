"""What FLUX.2 has that no other family has: latents in normalised patches, chats for prompts, variants not read."""

import copy
import json
import shutil
from functools import cache

import pytest
import torch

from erasediff import families
from erasediff.errors import BadInput
from erasediff.families.flux_2 import places
from erasediff.families.patch_latents import PatchLatents
from tests.families._tiny_flux_2 import LENGTH, flux_2, tokenizer, vae

CHAT = 14  # tokens around a prompt


@cache
def model():
    """Nobody changes it."""
    return families.adopt(flux_2()).with_prompts(["a cat"])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    directory = tmp_path_factory.mktemp("flux_2") / "model"
    model().save(directory)
    return directory


def test_latents_are_the_patches_that_the_pipeline_makes():
    """Of an autoencoder with several channels that halves its images: the order within a patch is then seen."""
    pipe, images = flux_2(), torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1
    pipe.vae = deep = vae(channels=3, levels=2).eval().requires_grad_(False)
    latents, x_0 = PatchLatents(deep), pipe._encode_vae_image(images, None)
    assert latents.shape(tuple(images.shape[1:])) == x_0.shape[1:] == (12, 4, 6)
    assert torch.equal(latents.encode(images), x_0)
    mean, deviation = latents.moments(images).unbind(1)
    assert torch.equal(mean, x_0)
    posterior = deep.encode(images).latent_dist
    scale = (deep.bn.running_var + deep.config.batch_norm_eps).sqrt()[:, None, None]
    assert torch.equal(deviation, pipe._patchify_latents(posterior.std) / scale)
    assert torch.allclose(latents.decode(x_0), deep.decode(posterior.mean).sample.clamp(-1, 1), atol=1e-4)


def test_it_takes_the_size_of_the_data_and_is_saved_with_it(tmp_path):
    wide = copy.deepcopy(model()).with_size(16, 32)
    assert (wide.image_shape, wide.cells) == ((3, 16, 32), (8, 16))
    assert not torch.equal(wide.noising.sigmas, model().noising.sigmas), "the number of tokens decides on the noise"
    x = torch.randn(1, 4, 8, 16)
    with torch.no_grad():
        assert wide.ask(wide.denoiser, x, torch.tensor([500]), torch.tensor([0])).shape == x.shape
    wide.save(tmp_path / "m")
    assert families.load(tmp_path / "m").image_shape == (3, 16, 32)
    with pytest.raises(BadInput, match="multiples of 2; these are 17 x 16"):
        wide.with_size(17, 16)


def test_it_is_1024_pixels_wide_where_nothing_else_is_said():
    pipe = flux_2()
    config = {k: v for k, v in pipe.transformer.config.items() if k != "_sample_size"}
    pipe.transformer = type(pipe.transformer).from_config(config)
    assert families.adopt(pipe).image_shape[1:] == (128, 128)  # 128 latent cells of a VAE that halves nothing


def test_levels_of_noise_are_those_of_fifty_steps():
    """The pipeline shifts by the number of its steps, and draws in fifty unless told otherwise."""
    table, sampled = model().noising.sigmas, model().sampler(50).sigmas[:-1]
    assert float((table[:, None] - sampled).abs().amin(0).max()) < 1e-5
    few = model().sampler(4).sigmas[:-1]
    assert float((table[249::250].flip(0) - few).abs().max()) > 1e-3, "else nothing here could fail"


def test_a_prompt_is_read_whole_with_its_chat_or_refused():
    longest = "ab" * ((LENGTH - CHAT) // 2)
    ids = model().with_prompts([longest]).table.embeddings["encoder_hidden_states"]
    assert ids.shape[1] == LENGTH
    with pytest.raises(BadInput, match=rf"'{longest}c' has {LENGTH + 1} tokens .*reads {LENGTH} and would cut"):
        model().with_prompts([longest + "c"])


def test_of_a_tokenizer_of_long_texts_as_many_tokens_are_read_as_the_pipeline_keeps():
    """Qwen's tokenizers make more tokens than its encoders were trained on; their positions are rotary."""
    pipe = flux_2()
    pipe.tokenizer = tokenizer(model_max_length=131_072)
    assert pipe.tokenizer.model_max_length > pipe.text_encoder.config.max_position_embeddings
    long = families.adopt(pipe)
    assert long.limits() == {"tokenizer": 512}
    with pytest.raises(BadInput, match=r"has 513 tokens .*reads 512 and would cut"):
        long.with_prompts(["a" * (513 - CHAT)])


def test_the_null_condition_is_the_empty_message():
    plain, rows = model().pipeline(), model().table.embeddings["encoder_hidden_states"]
    said = plain.encode_prompt("", max_sequence_length=LENGTH)[0]
    assert torch.equal(rows[-1:], said) and not torch.equal(rows[0], rows[1])


def test_places_are_whole_numbers():
    assert places(1, 1, 512, torch.device("cpu"))[-1].tolist() == [0, 0, 0, 511]
    assert places(2, 3, 1, torch.device("cpu")).tolist() == [[0, r, c, 0] for r in (0, 1) for c in (0, 1, 2)]
    assert not places(2, 3, 1, torch.device("cpu")).is_floating_point(), "bfloat16 tells 511 and 512 not apart"


def test_a_model_distilled_to_few_steps_is_refused(stored, tmp_path):
    with pytest.raises(BadInput, match=r"is distilled to draw in few steps \(is_distilled\).*give the base model"):
        families.adopt(flux_2(distilled=True))
    saved = shutil.copytree(stored, tmp_path / "model")
    index = json.loads((saved / "model_index.json").read_text())
    (saved / "model_index.json").write_text(json.dumps({**index, "is_distilled": True}))
    with pytest.raises(BadInput, match="is distilled to draw in few steps"):
        families.load(saved)


@pytest.mark.parametrize("other", ["Flux2Pipeline", "Flux2KleinInpaintPipeline", "Flux2KleinKVPipeline"])
def test_other_pipelines_of_flux_2_are_refused(other, stored, tmp_path):
    saved = shutil.copytree(stored, tmp_path / "model")
    index = json.loads((saved / "model_index.json").read_text())
    (saved / "model_index.json").write_text(json.dumps({**index, "_class_name": other}))
    with pytest.raises(BadInput, match=f"is a {other} pipeline, which no family reads; read are: .*Flux2KleinPipeline"):
        families.load(saved)


def test_parts_that_cannot_be_heard_are_refused():
    pipe = flux_2()
    pipe.tokenizer = tokenizer(chat_template=None)
    with pytest.raises(BadInput, match=r"no chat template.*take chat_template.jinja or"):
        families.adopt(pipe)
    with pytest.raises(BadInput, match=r"has 20 layers, and the pipeline hears layers 9, 18, 27; give one of 27"):
        families.adopt(flux_2(layers=20))
    pipe = flux_2()
    pipe.transformer.register_to_config(guidance_embeds=True)
    with pytest.raises(BadInput, match="takes embedded guidance 1 wide, the other parts make it 0"):
        families.adopt(pipe)


def test_statistics_of_patches_that_are_not_finite_are_refused(stored, tmp_path):
    """They are no parameters, and every image would be nothing."""
    from safetensors.torch import load_file, save_file

    saved = shutil.copytree(stored, tmp_path / "model")
    path = saved / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["bn.running_var"][2] = float("inf")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"vae holds weights that are not finite .*bn\.running_var"):
        families.load(saved)
