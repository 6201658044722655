"""What is special about Qwen-Image: its guidance, its instruction, what of other tasks is refused."""

import copy
from functools import cache

import diffusers
import pytest
import torch

from erasediff import families
from erasediff.errors import BadInput
from erasediff.families import qwen_image as family
from erasediff.families.sampling import sample
from tests.families._tiny_qwen_image import LENGTH, qwen_image

X = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
STEPS = torch.tensor([1, 500, 998])


@cache
def model():
    return families.adopt(qwen_image()).with_prompts(["a cat", "a dog", "the sea"])


@torch.no_grad()
def test_a_prediction_is_that_of_the_transformer_without_padding():
    """Prompt by prompt as the pipeline asks, whose rows are words only."""
    plain, labels = model().pipeline(), torch.tensor([0, 2, 3])
    found = model().ask(model().denoiser, X, STEPS, labels)
    for row, prompt in enumerate(["a cat", "the sea", ""]):
        text, mask = plain.encode_prompt(prompt)
        assert mask is None and text.shape[1] < LENGTH
        said = plain.transformer(
            plain._pack_latents(X[row : row + 1], 1, 4, 8, 8),
            timestep=model().noising.sigmas[STEPS[row : row + 1]],
            encoder_hidden_states=text,
            img_shapes=[[(1, 4, 4)]],
        ).sample
        assert torch.allclose(found[row : row + 1], plain._unpack_latents(said, 16, 16, 2)[:, :, 0], atol=1e-5)


def test_the_pipeline_guides_as_the_loop_does_and_then_shortens():
    """In one step: each token of the guided prediction is made as long as that of the prompt alone."""
    model, scale = families.adopt(qwen_image(shift=1.0)).with_prompts(["a cat"]), 30.0
    plain = model.pipeline()
    plain.set_progress_bar_config(disable=True)
    packed = plain._pack_latents(X[:1], 1, 4, 8, 8)
    options = {"latents": packed, "num_inference_steps": 1, "height": 16, "width": 16, "output_type": "latent"}
    drawn = plain("a cat", negative_prompt="", true_cfg_scale=scale, **options).images
    t = model.sampler(1).timesteps
    with torch.no_grad():
        own, null = (model.ask(model.denoiser, X[:1], t, torch.tensor([label])) for label in (0, 1))
    own, guided = (plain._pack_latents(p, 1, 4, 8, 8) for p in (own, null + scale * (own - null)))
    shortened = guided * own.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
    sigma, last = model.sampler(1).sigmas
    assert torch.allclose(drawn, packed + (last - sigma) * shortened, atol=1e-5)
    assert not torch.allclose(shortened, guided, atol=1e-2), "else the two would not be told apart"
    ours = sample(model, X[:1], torch.tensor([0]), torch.tensor([1]), guidance_scale=scale, num_inference_steps=1)
    x_0 = plain._unpack_latents(packed + (last - sigma) * guided, 16, 16, 2)[:, :, 0]
    assert torch.allclose(ours, model.decode(x_0), atol=1e-5)


def test_the_instruction_is_around_every_prompt_the_empty_one_too():
    words = model().table.embeddings["encoder_hidden_states_mask"]
    assert words.shape[1] == LENGTH + family.ENDING
    counts = [len(model().tokenizer(prompt).input_ids) for prompt in model().table.prompts]
    assert words.sum(1).tolist() == [count + 5 for count in counts], "the prompt and the end of the instruction"
    assert counts == [2, 2, 5, 0]
    assert not model().table.embeddings["encoder_hidden_states"][words == 0].any()


def test_a_prompt_is_read_up_to_what_the_pipeline_keeps_of_it():
    fits = " ".join(["cat"] * LENGTH)
    assert model().with_prompts([fits]).table.embeddings["encoder_hidden_states_mask"][0].all()
    with pytest.raises(BadInput, match=r"has 25 tokens .* reads 24 and would cut"):
        model().with_prompts([fits + " cat"])
    pipe = qwen_image()
    pipe.tokenizer.model_max_length = 131_072
    assert families.adopt(pipe).limits() == {"tokenizer": 512 - 5}


def test_it_takes_the_size_of_the_data_and_is_saved_with_it(tmp_path):
    wide = copy.deepcopy(model()).with_size(16, 32)
    assert wide.image_shape == (3, 16, 32)
    assert wide.encode(torch.zeros(1, 3, 16, 32)).shape == (1, 4, 8, 16)
    assert not torch.equal(wide.noising.sigmas, model().noising.sigmas), "larger images are noised more"
    wide.save(tmp_path / "m")
    assert families.load(tmp_path / "m").image_shape == (3, 16, 32)
    with pytest.raises(BadInput, match="multiples of 4; these are 18 x 16"):
        wide.with_size(18, 16)


@pytest.mark.parametrize("switch", family.OTHERS)
def test_a_transformer_for_other_tasks_is_refused(switch):
    pipe = qwen_image()
    pipe.transformer.register_to_config(**{switch: True})
    with pytest.raises(BadInput, match=f"transformer takes {family.OTHERS[switch]} 1 wide, the other parts make it 0"):
        families.adopt(pipe)


def test_pipelines_for_other_tasks_are_refused():
    pipe = qwen_image()
    for kind in (diffusers.QwenImageImg2ImgPipeline, diffusers.QwenImageInpaintPipeline):
        with pytest.raises(BadInput, match=f"a {kind.__name__} is no pipeline that a family reads"):
            families.adopt(kind(**pipe.components))


def test_a_version_of_diffusers_that_reads_padding_is_refused(monkeypatch):
    monkeypatch.setattr(family, "MASKED", False)
    with pytest.raises(BadInput, match=r"read padding as words; needed is 0\.37 or newer"):
        families.adopt(qwen_image())


def test_the_autoencoder_says_how_sure_it_is():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    moments, config = model().latents.moments(images), model().vae.config
    with torch.no_grad():
        posterior = model().vae.encode(images[:, :, None]).latent_dist
    assert torch.equal(moments[:, 0], model().encode(images))
    assert moments.shape[2:] == model().latents.shape((3, 16, 16)) == (4, 8, 8)
    deviation = torch.tensor(config.latents_std)[:, None, None]
    assert torch.allclose(moments[:, 1], posterior.std[:, :, 0] / deviation, rtol=1e-5)
    assert model().latents.image_shape(8) == model().image_shape


def test_the_map_that_reads_text_takes_the_rows_behind_the_norm():
    """What the closed-form edit is solved for is what the map is given."""
    given, denoiser = [], model().denoiser
    hook = denoiser.txt_in.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    with torch.no_grad():
        model().ask(denoiser, X, STEPS, torch.tensor([0, 1, 3]))
    hook.remove()
    rows = model().text_rows(denoiser, "encoder_hidden_states")
    assert torch.equal(given[0], rows[[0, 1, 3]])
    assert not torch.allclose(rows, model().table.embeddings["encoder_hidden_states"], atol=0.1)
