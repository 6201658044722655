"""The Stable Diffusion family: asked in words, it says what UNet and VAE say by hand, and it saves plain pipelines."""

import copy
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from erasediff.errors import BadInput
from erasediff.families import stable_diffusion, words
from erasediff.families.prompts import PromptTable
from erasediff.families.sampling import sample
from tests.families import _tiny_text as tiny

PROMPTS = ["a cat", "a dog", "the sea"]
UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
X_T = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
STEPS = torch.tensor([1, 500, 999])


@pytest.fixture(scope="module")
def pipe():
    return tiny.stable_diffusion()


@pytest.fixture
def model(pipe):
    return stable_diffusion.adopt(pipe).with_prompts(PROMPTS)


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def asked(model, labels=(0, 1, 3), denoiser=None):
    condition = None if labels is None else torch.tensor(labels)
    with torch.no_grad():
        return model.ask(denoiser or model.denoiser, X_T, STEPS, condition)


def by_hand(pipe, prompts):
    """Tokenise, encode and ask with nothing but transformers and the UNet."""
    ids = [pipe.tokenizer(p, padding="max_length", max_length=tiny.LENGTH).input_ids for p in prompts]
    with torch.no_grad():
        text = torch.cat([pipe.text_encoder(torch.tensor([i])).last_hidden_state for i in ids])
        return pipe.unet(X_T, STEPS, encoder_hidden_states=text).sample


def test_a_label_asks_what_its_prompt_asks_by_hand(model, pipe):
    said = asked(model)
    assert torch.equal(said, by_hand(pipe, ["a cat", "a dog", ""]))
    assert (said[:2] - asked(model, (3, 3, 3))[:2]).abs().amax((1, 2, 3)).min() > 1e-4  # else nothing here could fail


def test_embeddings_are_those_of_the_pipeline_bit_for_bit(model, pipe):
    rows = model.table.embeddings["encoder_hidden_states"]
    assert rows.shape == (4, tiny.LENGTH, 32)
    for prompt, row in zip([*PROMPTS, ""], rows, strict=True):
        expected, negative = pipe.encode_prompt(prompt, "cpu", 1, True)
        assert torch.equal(row, expected[0])
        assert torch.equal(rows[-1], negative[0])


def test_labels_are_prompts_and_the_last_row_is_the_null_condition(model):
    assert model.class_names == tuple(PROMPTS)
    assert (model.conditions.num_classes, model.conditions.null_label) == (3, 3)
    assert model.with_prompts(["a dog", "", "a cat", "a dog"]).table.prompts == ("a dog", "a cat", "")
    assert model.class_tables(model.denoiser) == []


def test_a_row_does_not_depend_on_the_other_prompts(model):
    alone = model.with_prompts(["the sea"])
    assert torch.equal(
        alone.table.embeddings["encoder_hidden_states"][0], model.table.embeddings["encoder_hidden_states"][2]
    )
    assert alone.denoiser is model.denoiser


def test_as_read_a_model_knows_the_null_condition_only(pipe, model):
    fresh = stable_diffusion.adopt(pipe)
    labels = torch.tensor([0, 0, 0])
    assert (fresh.conditions.num_classes, fresh.class_names) == (0, ())
    assert fresh.conditions.own(labels) is None
    assert torch.equal(asked(fresh, None), asked(model, (3, 3, 3)))
    assert torch.equal(asked(model, None), asked(model, (3, 3, 3)))


def test_a_row_of_the_table_changes_the_prediction_of_its_label_only(model):
    rows = model.table.embeddings["encoder_hidden_states"].clone()
    rows[1] += 1
    other = replace(model, table=PromptTable(model.table.prompts, {"encoder_hidden_states": rows}))
    changed = (asked(other) != asked(model)).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]


def test_a_prompt_that_would_be_cut_is_refused(model):
    with pytest.raises(BadInput, match=r"'cats cats cats cats cats cats' has 20 tokens .*reads 16"):
        model.with_prompts(["a cat", "cats cats cats cats cats cats"])
    assert model.with_prompts(["cat " * 14]).conditions.num_classes == 1  # 14, with a start and an end: just fits


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_guided_sampling_draws_finite_images_that_the_prompt_changes(prediction_type):
    model = stable_diffusion.adopt(tiny.stable_diffusion(prediction_type)).with_prompts(PROMPTS)
    assert model.noising.prediction_type == prediction_type
    drawn = []
    for label in (0, 1):
        own = model.conditions.own(torch.full((2,), label))
        null = model.conditions.null(own)
        drawn.append(sample(model, X_T[:2], own, null, guidance_scale=3.0, num_inference_steps=3))
    assert drawn[0].shape == (2, *model.image_shape)
    assert all(torch.isfinite(images).all() and images.abs().max() <= 1 for images in drawn)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-4


def test_the_loop_draws_what_the_pipeline_draws(model):
    """Same solver, same noise: the pipeline is the oracle of noising, embeddings, guidance and decoding together."""
    pipeline = model.pipeline()
    pipeline.scheduler = model.sampler(3)
    pipeline.set_progress_bar_config(disable=True)
    options = {"guidance_scale": 3.0, "num_inference_steps": 3, "output_type": "pt", "height": 16, "width": 16}
    expected = pipeline("a cat", latents=X_T[:1], **options).images * 2 - 1
    drawn = sample(model, X_T[:1], torch.tensor([0]), torch.tensor([3]), guidance_scale=3.0, num_inference_steps=3)
    assert torch.allclose(drawn, expected, atol=1e-4)


def test_images_are_encoded_and_decoded_as_by_hand(model, pipe):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        x_0 = pipe.vae.encode(images).latent_dist.mean * pipe.vae.config.scaling_factor
        decoded = pipe.vae.decode(3 * x_0 / pipe.vae.config.scaling_factor).sample
    assert model.image_shape == (3, 16, 16)
    assert torch.equal(model.encode(images), x_0)
    assert not model.encode(images).requires_grad
    assert torch.equal(model.decode(3 * x_0), decoded.clamp(-1, 1))
    assert model.decode(100 * x_0).abs().max() == 1


SCHEDULERS = ["DDPM", "DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "LMSDiscrete", "UniPCMultistep"]


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")  # diffusers with numpy 2
def test_noise_and_sampler_are_the_same_whatever_the_scheduler(kind, model, tmp_path):
    scheduler = tiny.scheduler(getattr(diffusers, f"{kind}Scheduler"), prediction_type="v_prediction")
    pipeline = model.pipeline()
    pipeline.scheduler = scheduler
    pipeline.save_pretrained(tmp_path / "model")
    other = stable_diffusion.load(tmp_path / "model")
    assert type(other.scheduler) is type(scheduler)
    assert other.noising.prediction_type == "v_prediction"
    assert torch.equal(other.noising.alphas_cumprod, model.noising.alphas_cumprod)
    sampler = other.sampler(4)
    assert torch.equal(sampler.alphas_cumprod, model.noising.alphas_cumprod)
    assert (sampler.config.prediction_type, sampler.config.thresholding) == ("v_prediction", False)
    assert len(sampler.timesteps) == 4


def test_latents_are_not_clipped_and_a_pipeline_has_a_scheduler_of_its_own(model):
    other = replace(model, scheduler=tiny.scheduler(diffusers.DDIMScheduler, thresholding=True))
    assert other.scheduler.config.thresholding
    assert not other.sampler(3).config.thresholding
    other.pipeline().scheduler.set_timesteps(3)
    assert len(other.scheduler.timesteps) == 1000


def test_a_stochastic_solver_of_the_pipeline_is_not_taken_over(model):
    other = replace(
        model, scheduler=tiny.scheduler(diffusers.DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++")
    )
    first, second = (sample(other, X_T[:1], None, None, num_inference_steps=3) for _ in range(2))
    assert torch.equal(first, second)


def test_plain_diffusers_reads_what_is_saved(model, saved):
    pipe = StableDiffusionPipeline.from_pretrained(saved, use_safetensors=True)
    assert torch.equal(by_hand(pipe, ["a cat", "a dog", ""]), asked(model))


@pytest.mark.slow
def test_what_is_saved_predicts_the_same_without_erasediff(model, saved, tmp_path):
    program = f"""
import sys
sys.modules["erasediff"] = None
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
pipe = StableDiffusionPipeline.from_pretrained({str(saved)!r}, use_safetensors=True)
given = load_file({str(tmp_path / "given")!r})
with torch.no_grad():
    text = torch.cat([pipe.encode_prompt(p, "cpu", 1, False)[0] for p in ("a cat", "a dog", "")])
    said = pipe.unet(given["x_t"], given["t"], encoder_hidden_states=text).sample
    images = pipe.vae.decode(given["x_t"]).sample.contiguous()
save_file({{"said": said, "images": images}}, {str(tmp_path / "said")!r})
"""
    with torch.no_grad():
        model.denoiser.conv_in.bias += 1
    model.save(saved)
    save_file({"x_t": X_T, "t": STEPS}, tmp_path / "given")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "said")
    assert torch.equal(found["said"], asked(model))
    with torch.no_grad():
        assert torch.equal(found["images"], model.vae.decode(X_T).sample)
    assert not list(saved.rglob("*.bin"))


def test_what_is_saved_is_read_again(model, saved):
    again = stable_diffusion.load(saved).with_prompts(PROMPTS)
    assert torch.equal(asked(again), asked(model))
    assert again.table.fingerprint == model.table.fingerprint
    assert all(again.scheduler.config[k] == v for k, v in model.scheduler.config.items() if not k.startswith("_"))


def test_channels_last_weights_are_saved_contiguous(model, tmp_path):
    expected = asked(model)
    model.denoiser.to(memory_format=torch.channels_last)
    model.save(tmp_path / "m")
    again = stable_diffusion.load(tmp_path / "m").with_prompts(PROMPTS)
    assert torch.allclose(asked(again), expected, atol=1e-5)


def test_variant_fp16_is_read_into_float32_and_saved_whole(model, pipe, tmp_path):
    half = copy.deepcopy(pipe).to(dtype=torch.float16)
    half.save_pretrained(tmp_path / "half", variant="fp16")
    read = stable_diffusion.load(tmp_path / "half").with_prompts(PROMPTS)
    for module in (read.denoiser, read.vae, read.text_encoder):
        assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert torch.equal(read.denoiser.conv_in.weight, half.unet.conv_in.weight.float())
    read.save(tmp_path / "whole")
    assert (tmp_path / "whole" / UNET).exists()
    adopted = stable_diffusion.adopt(half).with_prompts(PROMPTS)
    assert torch.equal(asked(adopted), asked(read))
    assert half.vae.dtype == half.text_encoder.dtype == torch.float16


def test_text_is_cast_to_the_dtype_of_the_denoiser(model):
    half = copy.deepcopy(model.denoiser).bfloat16()
    assert asked(model, denoiser=half).dtype == torch.bfloat16


def test_a_copy_shares_what_is_frozen(model):
    model.conditions = replace(model.conditions, excluded=(1,))
    pupil = copy.deepcopy(model)
    assert pupil.vae is model.vae
    assert pupil.text_encoder is model.text_encoder
    assert pupil.table is model.table
    assert pupil.conditions == model.conditions
    with torch.no_grad():
        pupil.denoiser.conv_in.bias += 1
    assert not torch.equal(asked(pupil), asked(model))


def test_an_adopted_pipeline_is_left_alone(pipe):
    pipe.text_encoder.train()
    adopted = stable_diffusion.adopt(pipe)
    frozen = [*adopted.vae.parameters(), *adopted.text_encoder.parameters()]
    assert not any(p.requires_grad for p in frozen)
    assert not adopted.vae.training
    assert not adopted.text_encoder.training
    assert pipe.text_encoder.training
    assert all(p.requires_grad for p in pipe.text_encoder.parameters())
    assert adopted.vae.encoder.conv_in.weight.data_ptr() == pipe.vae.encoder.conv_in.weight.data_ptr()
    assert adopted.denoiser.conv_in.weight.data_ptr() != pipe.unet.conv_in.weight.data_ptr()
    pipe.text_encoder.eval()


def test_an_attached_lora_is_refused():
    """peft wraps a layer so that its own weights are called base_layer; peft itself need not be installed for this."""
    pipe = tiny.stable_diffusion()
    attention = next(m for m in pipe.unet.modules() if hasattr(m, "to_k"))
    attention.to_k = torch.nn.ModuleDict({"base_layer": attention.to_k})
    with pytest.raises(BadInput, match="a LoRA is attached"):
        stable_diffusion.adopt(pipe)


def entered(directory, **entries):
    path = directory / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize("weights", [["model.safetensors"], ["model.fp16.safetensors"], None])
def test_a_safety_checker_is_kept_unread(saved, tmp_path, weights):
    weights = weights or ["model.safetensors", "model.fp16.safetensors"]
    made = {
        "feature_extractor": ("CLIPImageProcessor", {"preprocessor_config.json": "{}"}),
        "safety_checker": ("StableDiffusionSafetyChecker", {"config.json": "{}", **{w: w for w in weights}}),
    }
    kept = {"feature_extractor": made["feature_extractor"][1]}
    kept["safety_checker"] = {"config.json": "{}", "model.safetensors": weights[0]}
    for name, (kind, files) in made.items():
        (saved / name).mkdir()
        for file, text in {**files, "pytorch_model.bin": "a pickle"}.items():
            (saved / name / file).write_text(text)
        entered(saved, **{name: ["stable_diffusion", kind]}, requires_safety_checker=True)
    stable_diffusion.load(saved).save(tmp_path / "again")
    index = json.loads((tmp_path / "again" / "model_index.json").read_text())
    assert index["requires_safety_checker"] is True
    for name, (kind, _) in made.items():
        assert index[name] == ["stable_diffusion", kind]
        assert {f.name: f.read_text() for f in (tmp_path / "again" / name).iterdir()} == kept[name]


def test_a_safety_checker_without_safetensors_is_left_out_with_a_warning(saved, tmp_path):
    (saved / "safety_checker").mkdir()
    (saved / "safety_checker" / "config.json").write_text("{}")
    entered(saved, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"], requires_safety_checker=True)
    with pytest.warns(UserWarning, match="safety_checker is left out"):
        stable_diffusion.load(saved).save(tmp_path / "again")
    StableDiffusionPipeline.from_pretrained(tmp_path / "again", use_safetensors=True)


@pytest.mark.parametrize(
    "lost",
    [UNET, TEXT, "vae/config.json", "scheduler/scheduler_config.json", "model_index.json"],
)
def test_an_incomplete_directory_names_what_is_missing(saved, lost):
    (saved / lost).unlink()
    with pytest.raises(BadInput, match=lost):
        stable_diffusion.load(saved)


def test_a_missing_tokenizer_is_not_an_empty_one(saved):
    (saved / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"tokenizer/vocab\.json is missing"):
        stable_diffusion.load(saved)


@pytest.mark.parametrize("part", [UNET, TEXT])
@pytest.mark.parametrize("harm", ["nan", "absent", "truncated", "shape"])
def test_broken_weights_are_refused_in_one_line(saved, part, harm):
    path = saved / part
    tensors = load_file(path)
    name = next(n for n in sorted(tensors) if n.endswith("bias"))
    if harm == "nan":
        tensors[name][0] = float("nan")
    elif harm == "absent":
        del tensors[name]
    elif harm == "shape":
        tensors[name] = torch.zeros(3)
    save_file(tensors, path, metadata={"format": "pt"})
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    said = {"nan": "not finite", "absent": "lacks weights .*: 1,"}.get(harm, "cannot be read|lacks weights")
    with pytest.raises(BadInput, match=said) as refused:
        stable_diffusion.load(saved)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"unet": ["diffusers", "UNet2DModel"]},
            "unet of .* is a UNet2DModel; this family reads a UNet2DConditionModel",
        ),
        ({"text_encoder": [None, None]}, "text_encoder of .* is a None"),
        ({"scheduler": ["diffusers", "MyScheduler"]}, "MyScheduler of .* is none of diffusers'"),
        ({"scheduler": ["diffusers", "AutoencoderKL"]}, "AutoencoderKL of .* is none of diffusers'"),
        ({"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "has no alphas_cumprod"),
    ],
)
def test_parts_of_another_class_are_refused(saved, entry, said):
    entered(saved, **entry)
    with pytest.raises(BadInput, match=said):
        stable_diffusion.load(saved)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("unet", {"in_channels": 9}, "unet takes latents 9 wide, the other parts make it 4"),
        ("unet", {"cross_attention_dim": 64}, "takes text 64 wide, the other parts make it 32"),
        ("text_encoder", {"vocab_size": 10}, "vocabulary is 88 tokens, but the text encoder takes 10"),
        ("text_encoder", {"max_position_embeddings": 8}, "length is 16 tokens, but the text encoder takes 8"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(part, change, said):
    pipe = tiny.stable_diffusion()
    module = getattr(pipe, part)
    if part == "unet":
        module.register_to_config(**change)
    else:
        module.config.update(change)
    with pytest.raises(BadInput, match=said):
        stable_diffusion.adopt(pipe)


def test_code_in_a_model_directory_is_not_run(saved, tmp_path):
    for name in ("pipeline.py", "unet/my_unet.py", "scheduler/my_scheduler.py"):
        (saved / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    stable_diffusion.load(saved)
    assert not (tmp_path / "ran").exists()


def test_without_transformers_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    spec = importlib.util.spec_from_file_location("_without", words.__file__)
    with pytest.raises(BadInput, match=r"pip install .erasediff\[text\]"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_method_erases_a_prompt_as_it_does_a_class(model):
    """Methods, pairing and the loop know labels only."""
    from erasediff.data.images import build
    from erasediff.data.pairs import Pairs
    from erasediff.data.targets import Class, split
    from erasediff.methods import METHODS
    from erasediff.training.config import TrainingConfig
    from erasediff.training.loop import start, take_step

    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    data = build("prompted", images, np.arange(24) % 3, class_names=model.class_names)
    divided = split([Class("a cat")], data)
    model.conditions = replace(model.conditions, excluded=divided.classes)
    pairs = Pairs(data, divided.retain, divided.forget, batch_size=2, seed=0)
    config = TrainingConfig(max_train_steps=2, train_batch_size=2, learning_rate=1e-3, checkpointing_steps=0)
    before = asked(model)
    run = start(model, METHODS["erasediff"](forget_target="relabel"), pairs, config)
    for _ in range(2):
        take_step(run)
    assert torch.isfinite(asked(model)).all()
    assert not torch.equal(asked(model), before)
    assert all(p.grad is None for p in (*model.vae.parameters(), *model.text_encoder.parameters()))
