"""The DiT family works in a VAE's latents, and reads and writes plain DiTPipeline directories."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from safetensors.torch import load_file, save_file

import erasediff
from erasediff import families
from erasediff.data.images import build
from erasediff.errors import BadInput
from erasediff.families import tiny
from erasediff.families.base import check_images
from erasediff.families.dit import DiT
from erasediff.families.latents import Latents
from erasediff.families.sampling import sample

WEIGHTS = "diffusion_pytorch_model.safetensors"
PARTS = [f"{part}/{file}" for part in ("transformer", "vae") for file in ("config.json", WEIGHTS)]


@pytest.fixture
def model():
    return tiny.dit()


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def ask(model, labels=(0, 1, 4)):
    """The noise that the model sees in three latents, each at a step of its own."""
    t = torch.tensor([1, 50, 99])
    return model.ask(model.denoiser, drawn(3, 2, 4, 4), t, torch.tensor(labels))


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_latents_are_what_the_vae_says_by_hand(model):
    """The posterior's mean and not a draw; scaled and shifted as Stable Diffusion 3 and later do it."""
    vae, images = model.latents.vae, drawn(3, 1, 8, 8).clamp(-1, 1)
    vae.register_to_config(shift_factor=0.25, scaling_factor=0.5)
    with torch.no_grad():
        z = vae.encode(images).latent_dist.mean
        assert torch.equal(model.encode(images), (z - 0.25) * 0.5)
        again = vae.decode(z).sample.clamp(-1, 1)
    assert torch.allclose(model.decode(model.encode(images)), again, atol=1e-6)
    assert torch.equal(model.encode(images), model.encode(images))


def test_without_a_shift_latents_are_only_scaled(model):
    images = drawn(2, 1, 8, 8)
    with torch.no_grad():
        z = model.latents.vae.encode(images).latent_dist.mean
    assert torch.equal(model.encode(images), z * 0.18215)


def test_decoded_images_are_clamped(model):
    with torch.no_grad():
        model.latents.vae.decoder.conv_out.bias += 3
    assert model.decode(drawn(2, 2, 4, 4)).max() == 1


def test_large_batches_pass_through_the_vae_in_pieces(model, monkeypatch):
    images, x_0 = drawn(5, 1, 8, 8), drawn(5, 2, 4, 4)
    whole = model.encode(images), model.decode(x_0)
    monkeypatch.setattr("erasediff.families.latents.AT_ONCE", 2 * 64)
    seen = []
    model.latents.vae.encoder.register_forward_hook(lambda module, given, _: seen.append(len(given[0])))
    model.latents.vae.decoder.register_forward_hook(lambda module, given, _: seen.append(len(given[0])))
    pieces = model.encode(images), model.decode(x_0)
    assert seen == [2, 2, 1] * 2
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, pieces, strict=True))


def test_the_vae_is_frozen_and_follows_its_input(model):
    assert not any(p.requires_grad for p in model.latents.vae.parameters())
    assert not model.latents.vae.training
    assert not model.encode(drawn(1, 1, 8, 8).requires_grad_()).requires_grad
    elsewhere = Latents.of(copy.deepcopy(model.latents.vae))
    assert elsewhere.encode(torch.zeros(2, 1, 8, 8, device="meta")).shape == (2, 2, 4, 4)
    assert elsewhere.decode(torch.zeros(2, 2, 4, 4, device="meta")).device.type == "meta"
    model.denoiser.to("meta")
    assert model.pipeline().vae.device.type == "meta"


def test_a_half_precision_vae_gives_the_dtype_it_was_given(model):
    half = Latents.of(copy.deepcopy(model.latents.vae).bfloat16())
    assert half.encode(drawn(1, 1, 8, 8)).dtype == torch.float32
    assert half.decode(drawn(1, 2, 4, 4)).dtype == torch.float32


def test_a_copy_has_its_own_denoiser_and_shares_the_vae(model):
    other = copy.deepcopy(model)
    assert other.latents.vae is model.latents.vae
    with torch.no_grad():
        other.denoiser.proj_out_2.bias += 1
    assert (ask(other) - ask(model)).abs().min() > 0.5


@pytest.mark.parametrize("learned", [True, False])
def test_only_the_noise_is_asked(learned):
    model, x = tiny.dit(learned_sigma=learned), drawn(3, 2, 4, 4)
    with torch.no_grad():
        plain = model.denoiser(x, torch.tensor([1, 50, 99]), torch.tensor([0, 1, 4])).sample
    assert plain.shape[1] == (4 if learned else 2)
    assert torch.equal(ask(model), plain[:, :2])


def test_conditions_and_shapes_are_read_from_the_modules():
    model = tiny.dit(channels=3)
    assert (model.conditions.num_classes, model.conditions.null_label) == (4, 4)
    assert model.image_shape == (3, 8, 8)
    check_images(model, (3, 8, 8))
    with pytest.raises(BadInput, match="3 x 16 x 16, but this model takes 3 x 8 x 8"):
        check_images(model, (3, 16, 16))


def test_train_mode_drops_no_labels(model):
    """diffusers' own module swaps one label in ten for the null label, by torch's global generator."""
    model.denoiser.train()
    t, x, labels = torch.full((64,), 50), drawn(1, 2, 4, 4).expand(64, 2, 4, 4), torch.ones(64, dtype=torch.long)
    said = model.ask(model.denoiser, x, t, labels)
    assert torch.allclose(said, said[:1].expand_as(said), atol=1e-5)
    assert torch.equal(said, model.ask(model.denoiser.eval(), x, t, labels))


def test_time_and_class_reach_the_prediction(model):
    x = drawn(1, 2, 4, 4)
    with torch.no_grad():
        said = [
            model.ask(model.denoiser, x, torch.tensor([t]), torch.tensor([c])) for t, c in ((5, 0), (5, 1), (90, 0))
        ]
    assert (said[0] - said[1]).abs().max() > 1e-3
    assert (said[0] - said[2]).abs().max() > 1e-3


def test_a_row_of_the_class_tables_moves_that_class_only(model):
    tables, before = model.class_tables(model.denoiser), ask(model, (0, 1, 4))
    assert [t.num_embeddings for t in tables] == [5, 5]
    for table in tables:
        assert any(table.weight is p for p in model.denoiser.parameters())
        with torch.no_grad():
            table.weight[1] += 1
        after = ask(model, (0, 1, 4))
        assert torch.equal(after[[0, 2]], before[[0, 2]])
        assert (after[1] - before[1]).abs().max() > 1e-3
        before = after


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_samples_are_images(guidance_scale):
    model = tiny.dit(channels=3)
    own = model.conditions.own(torch.tensor([0, 3]))
    null = model.conditions.null(own)
    with torch.no_grad():
        model.latents.vae.decoder.conv_out.weight *= 100
    images = sample(model, drawn(2, 2, 4, 4), own, null, guidance_scale=guidance_scale, num_inference_steps=3)
    assert images.shape == (2, *model.image_shape)
    assert torch.isfinite(images).all()
    assert images.abs().max() == 1


def test_latents_are_never_clipped_nor_split(model):
    """clip_sample and a learned variance in the scheduler's configuration are for pixels of three channels."""
    scheduler = DDPMScheduler(num_train_timesteps=100, clip_sample=True, variance_type="learned_range")
    adapted = DiT.wrap(model.denoiser, model.latents.vae, scheduler, {})
    config = adapted.sampler(3).config
    assert not config.thresholding
    assert config.variance_type is None
    assert sample(adapted, drawn(1, 2, 4, 4), torch.tensor([0]), None, num_inference_steps=3).shape == (1, 1, 8, 8)


def test_the_first_noise_alone_decides_on_the_image(model):
    """Audits pair models by it; a solver of the stochastic equation draws more from torch's global generator."""
    stochastic = DPMSolverMultistepScheduler(num_train_timesteps=100, algorithm_type="sde-dpmsolver++")
    adapted = DiT.wrap(model.denoiser, model.latents.vae, stochastic, {})
    first, second = (sample(adapted, drawn(1, 2, 4, 4), torch.tensor([0]), None, num_inference_steps=3) for _ in "ab")
    assert torch.equal(first, second)


def test_names_are_the_first_of_each_class_and_survive(model, saved):
    names = ("class 0", "class 1", "class 2", "class 3")
    assert families.load(saved).class_names == names
    plain = DiTPipeline.from_pretrained(saved)
    assert plain.labels["class 2"] == plain.labels["2th"] == 2
    # From a pipeline object the order is lost, not the names.
    assert families.adopt(plain).labels[2] == "2th, class 2"
    assert families.adopt(model.pipeline()).class_names == names
    rewrite(saved / "model_index.json", id2label={"1": "cat"})
    assert families.load(saved).class_names == ("0", "cat", "2", "3")
    assert DiT.wrap(model.denoiser, model.latents.vae, model.scheduler, {}).pipeline().labels == {}


def test_what_is_saved_predicts_the_same_in_plain_diffusers(model, saved):
    plain = DiTPipeline.from_pretrained(saved)
    plain.vae.requires_grad_(False)  # as the model's own is
    x, t, labels = drawn(3, 2, 4, 4), torch.tensor([1, 50, 99]), torch.tensor([0, 1, 4])
    with torch.no_grad():
        assert torch.equal(plain.transformer.eval()(x, t, labels).sample[:, :2], ask(model))
        assert torch.equal(plain.vae.decode(x).sample, model.latents.vae.decode(x).sample)
    assert plain.scheduler.config.num_train_timesteps == 100
    # How often labels are dropped in training is no part of what is saved: another trainer finds diffusers' own.
    assert plain.transformer.transformer_blocks[0].norm1.emb.class_embedder.dropout_prob > 0
    assert torch.equal(ask(families.load(saved)), ask(model))


def test_the_scheduler_stays_what_it_was(model, tmp_path):
    DiT.wrap(model.denoiser, model.latents.vae, model.sampler(2), {}).save(tmp_path / "m")
    loaded = families.load(tmp_path / "m")
    assert type(loaded.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert torch.equal(loaded.noising.alphas_cumprod, model.noising.alphas_cumprod)


def test_the_name_that_older_directories_give_the_transformer_is_read(model, saved):
    rewrite(saved / "transformer" / "config.json", _class_name="Transformer2DModel", norm_type="ada_norm_zero")
    assert torch.equal(ask(families.load(saved)), ask(model))


def test_a_pipeline_object_is_copied_not_changed(saved):
    pipeline = DiTPipeline.from_pretrained(saved)
    pipeline.to(torch.bfloat16)
    adopted = families.adopt(pipeline)
    assert adopted.denoiser.dtype == adopted.latents.vae.dtype == torch.float32
    assert pipeline.transformer.dtype == pipeline.vae.dtype == torch.bfloat16
    assert all(p.requires_grad for p in pipeline.vae.parameters())
    assert pipeline.transformer.transformer_blocks[0].norm1.emb.class_embedder.dropout_prob > 0


@pytest.mark.parametrize("lost", [*PARTS, "scheduler/scheduler_config.json"])
def test_an_incomplete_directory_names_what_is_missing(saved, lost):
    (saved / lost).unlink()
    with pytest.raises(BadInput, match=lost):
        families.load(saved)


@pytest.mark.parametrize("part", ["transformer", "vae"])
@pytest.mark.parametrize("broken", ["not finite", "lacks weights", "cannot be read"])
def test_broken_weights_are_refused_in_one_line(saved, part, broken):
    path = saved / part / WEIGHTS
    tensors = load_file(path)
    name = sorted(tensors)[0]
    if broken == "not finite":
        tensors[name].flatten()[0] = float("nan")
    elif broken == "lacks weights":
        del tensors[name]
    save_file(tensors, path)
    if broken == "cannot be read":
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInput, match=rf"{part}.*{broken}") as refused:
        families.load(saved)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "changes", "said"),
    [
        ("transformer/config.json", {"_class_name": "UNet2DModel"}, r"holds a UNet2DModel; needed is DiTTransf"),
        ("transformer/config.json", {"num_layers": 3}, "lacks weights"),
        ("transformer/config.json", {"num_embeds_ada_norm": 7}, "cannot be read"),
        ("vae/config.json", {"_class_name": "VQModel"}, "holds a VQModel; needed is AutoencoderKL"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "allowed: DDIM"),
        ("scheduler/scheduler_config.json", {"_class_name": "os.system"}, "'os.system' is unknown"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "nonsense"}, "cannot be read as a DDIMScheduler"),
        ("model_index.json", {"id2label": ["cat"]}, "must be names by class number"),
        ("model_index.json", {"id2label": {"cat": "0"}}, "must be names by class number"),
    ],
)
def test_a_directory_of_something_else_is_refused_in_one_line(saved, path, changes, said):
    rewrite(saved / path, **changes)
    with pytest.raises(BadInput, match=said) as refused:
        families.load(saved)
    assert "\n" not in str(refused.value)


def test_modules_that_do_not_fit_are_refused(model):
    transformer, vae = model.denoiser, model.latents.vae
    with pytest.raises(BadInput, match="has no alphas_cumprod"):
        DiT.wrap(transformer, vae, FlowMatchEulerDiscreteScheduler(), {})
    four = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    with pytest.raises(BadInput, match="takes 2 channels, the VAE's latents have 4"):
        DiT.wrap(transformer, four, model.scheduler, {})
    odd = DiTTransformer2DModel(2, 8, in_channels=2, out_channels=3, num_layers=1, sample_size=4, num_embeds_ada_norm=4)
    with pytest.raises(BadInput, match="takes 2 channels and returns 3"):
        DiT.wrap(odd, vae, model.scheduler, {})
    with pytest.raises(BadInput, match="reads images of 3 channels and draws images of 1"):
        Latents.of(AutoencoderKL(out_channels=1, block_out_channels=(8,), norm_num_groups=4))


def test_code_in_a_model_directory_is_not_run(saved, tmp_path):
    for folder in (saved, saved / "transformer", saved / "vae"):
        (folder / "pipeline.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    families.load(saved)
    assert not (tmp_path / "ran").exists()


def erased(base, method):
    """A run of two steps that forgets one class of made-up colour images."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    data = build("colours", images, np.arange(40) % 4)
    few = {"max_train_steps": 2, "train_batch_size": 4, "learning_rate": 1e-3, "checkpointing_steps": 0}
    return erasediff.erase(base.pipeline(), "class:1", data, method, quiet=True, **few)


@pytest.mark.parametrize("method", ["erasediff", "salun"])
def test_a_class_is_erased_and_the_vae_is_left_alone(method, tmp_path):
    base = tiny.dit(channels=3)
    run = erased(base, method)
    assert (ask(run.model) - ask(base)).abs().max() > 1e-4
    run.save(tmp_path / "run")
    plain = DiTPipeline.from_pretrained(tmp_path / "run" / "model")
    with torch.no_grad():
        said = plain.transformer.eval()(drawn(3, 2, 4, 4), torch.tensor([1, 50, 99]), torch.tensor([0, 1, 4])).sample
    assert torch.equal(said[:, :2], ask(run.model))
    assert torch.equal(ask(families.load(tmp_path / "run")), ask(run.model))
    kept = zip(base.latents.vae.parameters(), plain.vae.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in kept)


@pytest.mark.slow
def test_what_was_erased_draws_classes_without_erasediff(tmp_path):
    for method in ("erasediff", "salun"):
        erased(tiny.dit(channels=3), method).save(tmp_path / method)
    program = f"""
import sys
sys.modules["erasediff"] = None
from diffusers import DiffusionPipeline
for method in ("erasediff", "salun"):
    pipe = DiffusionPipeline.from_pretrained({str(tmp_path)!r} + "/" + method + "/model")
    pipe.set_progress_bar_config(disable=True)
    labels = pipe.get_label_ids(["class 1", "2th"])
    out = pipe(class_labels=labels, guidance_scale=1.0, num_inference_steps=2, output_type="np").images
    print(type(pipe).__name__, labels, out.shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["DiTPipeline [1, 2] (2, 8, 8, 3)"] * 2, done.stderr


def test_listing_families_does_not_import_diffusers():
    program = """
import sys
from erasediff.families import FAMILIES
print(FAMILIES["dit"].pipelines, "diffusers" in sys.modules, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "('DiTPipeline',) False False", done.stderr
