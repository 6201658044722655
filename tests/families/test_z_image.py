"""What is special to Z-Image: prompts at their own length, in the frame of a chat; its size; what is refused."""

import copy

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from erasediff import families
from erasediff.auditing.attacks.gradient_membership import gradient_norms
from erasediff.errors import BadInput
from erasediff.families import one_file
from erasediff.training.config import TrainingConfig
from erasediff.training.lora import attach
from erasediff.training.quantised import quantise
from tests.families._tiny_z_image import LENGTH, tokenizer, z_image

LONG = "a very long prompt of more than 32 tokens"
PROMPTS = ("a cat", LONG, "a dog")
FRAME = 8  # start, role and line before the prompt; end and line, start, role and line behind it


@pytest.fixture(scope="module")
def pipe():
    return z_image()


@pytest.fixture(scope="module")
def model(pipe):
    return families.adopt(pipe).with_prompts(PROMPTS)


def latents(count, seed=0):
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_prompts_of_unlike_lengths_are_asked_together_as_the_transformer_has_it(model, pipe):
    x, t, labels = latents(4), torch.tensor([1, 200, 700, 998]), torch.tensor([1, 0, 3, 1])
    said = model.ask(model.denoiser, x, t, labels)
    words, _ = pipe.encode_prompt([LONG, "a cat", "", LONG], "cpu", False, max_sequence_length=LENGTH)
    assert [len(row) for row in words] == [FRAME + 41, FRAME + 3, FRAME, FRAME + 41]
    at = (1000 - model.noising.timesteps(t)) / 1000
    plain = pipe.transformer([row[:, None] for row in x], at, words).sample
    assert torch.allclose(said, -torch.stack(plain)[:, :, 0], atol=1e-6)
    alone = torch.cat([model.ask(model.denoiser, x[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(4)])
    assert torch.allclose(said, alone, atol=1e-5), "no sample sees how long the others' prompts are"


@torch.no_grad()
def test_a_row_is_the_last_layer_but_one_of_the_framed_prompt_and_zeros(model, pipe):
    framed = "<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n"
    ids = pipe.tokenizer(framed, return_tensors="pt").input_ids
    said = pipe.text_encoder(ids, output_hidden_states=True).hidden_states[1][0]
    row, words = (model.table.embeddings[key][0] for key in ("encoder_hidden_states", "encoder_attention_mask"))
    assert torch.allclose(row[: len(said)], said, atol=1e-5)
    assert not row[len(said) :].any()
    assert words.tolist() == [1.0] * len(said) + [0.0] * (LENGTH - len(said))


def test_the_null_condition_is_the_frame_alone(model):
    assert model.table.embeddings["encoder_attention_mask"].sum(1).tolist() == [11, 49, 11, 8]


def test_a_prompt_fills_what_the_frame_leaves_and_is_not_cut(model):
    most = LENGTH - FRAME
    full = model.with_prompts(["x" * most])
    assert full.table.embeddings["encoder_attention_mask"][0].all()
    with pytest.raises(BadInput, match=rf"has {most + 1} tokens .* reads {most} and would cut"):
        model.with_prompts(["x" * (most + 1)])


def test_the_pipeline_reads_512_tokens_where_the_tokenizer_makes_more():
    pipe = z_image()
    pipe.tokenizer.model_max_length = 131072
    model = families.adopt(pipe)
    assert model.table.embeddings["encoder_hidden_states"].shape == (1, 512, 32)
    assert model.limits() == {"tokenizer": 512 - FRAME}


def test_it_takes_the_size_of_the_data_and_is_saved_with_it(tmp_path):
    model = families.adopt(z_image(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=32))
    wide = copy.deepcopy(model).with_size(16, 32)
    assert wide.image_shape == (3, 16, 32)
    assert not torch.equal(wide.noising.sigmas, model.noising.sigmas), "larger images are noised more"
    x = torch.randn(1, 4, 8, 16)
    with torch.no_grad():
        assert wide.ask(wide.denoiser, x, torch.tensor([500]), None).shape == x.shape
    wide.save(tmp_path / "m")
    assert families.load(tmp_path / "m").image_shape == (3, 16, 32)
    with pytest.raises(BadInput, match="multiples of 4; these are 18 x 16"):
        model.with_size(18, 16)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"siglip_feat_dim": 16}, r"takes features of images to edit 16 wide.*no image editing"),
        ({"all_patch_size": (4,)}, "takes patches 4 wide, the other parts make it 2"),
    ],
)
def test_transformers_that_are_asked_otherwise_are_refused(changed, said):
    with pytest.raises(BadInput, match=said):
        families.adopt(z_image(transformer=changed))


def test_pipelines_that_take_an_image_are_refused(pipe):
    with pytest.raises(BadInput, match="ZImageImg2ImgPipeline"):
        families.adopt(diffusers.ZImageImg2ImgPipeline(**pipe.components))


def test_without_its_frame_no_prompt_is_read():
    pipe = z_image()
    pipe.register_modules(tokenizer=tokenizer(chat_template=None))
    with pytest.raises(BadInput, match=r"the tokenizer has no chat template.*take chat_template.jinja or"):
        families.adopt(pipe)


@torch.no_grad()
def test_the_map_that_reads_text_takes_normed_rows(model):
    taken = []
    hook = model.denoiser.cap_embedder[1].register_forward_hook(lambda layer, given, _: taken.append(given[0]))
    model.ask(model.denoiser, latents(1), torch.tensor([500]), torch.tensor([1]))
    hook.remove()
    rows = model.text_rows(model.denoiser, "encoder_hidden_states")[1]
    assert torch.allclose(taken[0][:49], rows[:49], atol=1e-6)
    assert not torch.allclose(rows[:49], model.table.embeddings["encoder_hidden_states"][1][:49], atol=1e-1)


def test_gradients_of_single_samples_are_those_of_samples_asked_alone(model):
    images, labels = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1, torch.arange(3)
    together = gradient_norms(model, images, labels, draws=2, seed=0)
    assert together.shape == (3,) and (together > 0).all()
    # The same noise and steps for whichever image: alone it is the first of its batch.
    alone = [gradient_norms(model, images[i : i + 1], labels[i : i + 1], draws=2, seed=0)[0] for i in range(3)]
    assert together == pytest.approx(alone, rel=1e-4)


def test_it_may_be_quantised_under_a_lora(model):
    other, config = copy.deepcopy(model), TrainingConfig(rank=2, quantize="int8")
    attach(other.denoiser, config, quantise(other.denoiser, config, torch.device("cpu")))
    x, t, labels = latents(3), torch.tensor([3, 500, 900]), torch.arange(3)
    with torch.no_grad():
        before, after = (m.ask(m.denoiser, x, t, labels) for m in (model, other))
    assert 0 < (after - before).abs().max() < 0.5 * before.abs().max()


def test_a_file_as_it_was_published_is_read(model, tmp_path):
    """Queries, keys and values in one matrix, embedder and last layer without the size of their patches."""
    weights = dict(model.denoiser.state_dict())
    for name in [name for name in weights if name.endswith("to_q.weight")]:
        stem = name.removesuffix("to_q.weight")
        weights[f"{stem}qkv.weight"] = torch.cat([weights.pop(f"{stem}to_{part}.weight") for part in "qkv"])
    renamed = {"all_x_embedder.2-1.": "x_embedder.", "all_final_layer.2-1.": "final_layer.", "to_out.0.": "out."}
    renamed |= {".norm_q.": ".q_norm.", ".norm_k.": ".k_norm."}
    for new, old in renamed.items():
        weights = {name.replace(new, old): tensor for name, tensor in weights.items()}
    weights = {f"model.diffusion_model.{name}": tensor.contiguous() for name, tensor in weights.items()}
    model.save(tmp_path / "config")
    save_file(weights, tmp_path / "model.safetensors")
    assert one_file.inferred(tmp_path, weights) == "Tongyi-MAI/Z-Image-Turbo"
    read = families.load(tmp_path / "model.safetensors", tmp_path / "config")
    for name, weight in model.denoiser.state_dict().items():
        assert torch.equal(read.denoiser.state_dict()[name], weight), name
