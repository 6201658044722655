"""What every family that is asked in words owes: encode, noise, ask, draw, save; plain diffusers is the oracle."""

import copy
import json
import shutil
from dataclasses import replace
from functools import cache

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from erasediff import families
from erasediff.errors import BadInput
from erasediff.families.prompts import PromptTable
from erasediff.families.sampling import sample
from tests.families import _tiny_flux_2
from tests.families import _tiny_text as tiny
from tests.families._tiny_qwen_image import qwen_image
from tests.families._tiny_z_image import z_image

MADE = {
    "stable_diffusion": tiny.stable_diffusion,
    "stable_diffusion_xl": tiny.stable_diffusion_xl,
    "stable_diffusion_3": tiny.stable_diffusion_3,
    "stable_diffusion_3-without-t5": lambda: tiny.stable_diffusion_3(t5=False),
    "flux": tiny.flux,
    "pixart": tiny.pixart,
    "pixart-alpha": lambda: tiny.pixart(diffusers.PixArtAlphaPipeline),
    "sana": tiny.sana,
    "sana-euler": lambda: tiny.sana(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)),
    "qwen_image": qwen_image,
    "qwen_image-unshifted": lambda: qwen_image(shift=1.0),
    "flux-undistilled": lambda: tiny.flux(guidance_embeds=False, shift=1.0),
    "z_image": z_image,
    "z_image-dynamic": lambda: z_image(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=32),
    "flux_2": _tiny_flux_2.flux_2,
}
PROMPTS = ("a cat", "a dog", "the sea")
X = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
STEPS = torch.tensor([1, 500, 998])


@cache
def built(name):
    """(the pipeline, a model of it that knows PROMPTS): nobody changes either."""
    pipe = MADE[name]()
    pipe.set_progress_bar_config(disable=True)
    return pipe, families.adopt(pipe).with_prompts(PROMPTS)


@pytest.fixture(params=MADE, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def pipe(name):
    return built(name)[0]


@pytest.fixture(scope="module")
def model(name):
    return built(name)[1]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Where a miniature lies saved, by its name."""

    @cache
    def place(name):
        directory = tmp_path_factory.mktemp(name) / "model"
        built(name)[1].save(directory)
        return directory

    return place


@pytest.fixture
def stored(name, shelf):
    return shelf(name)


@torch.no_grad()
def asked(model, labels=(0, 1, 3), denoiser=None):
    condition = None if labels is None else torch.tensor(labels)
    return model.ask(denoiser or model.denoiser, X, STEPS, condition)


def test_the_family_is_found_by_the_class_of_the_pipeline(name, model, stored):
    assert model.family == families.family_of(stored).name == name.split("-")[0]
    assert model.noising.prediction_type in families.FAMILIES[model.family].predictions


def test_labels_are_prompts_and_the_last_row_is_the_null_condition(model):
    assert model.class_names == PROMPTS
    assert (model.conditions.num_classes, model.conditions.null_label) == (3, 3)
    assert model.conditions.in_words  # decides how a method retains
    assert torch.equal(asked(model, None), asked(model, (3, 3, 3)))
    assert model.with_prompts(["a dog", "", "a dog"], anchor="a cat").table.prompts == ("a dog", "a cat", "")
    assert model.class_tables(model.denoiser) == []
    alone = model.with_prompts(["the sea"])
    for key, rows in model.table.embeddings.items():
        assert torch.equal(alone.table.embeddings[key][0], rows[2]), "a row depends on its prompt alone"


def test_every_part_of_a_row_reaches_the_prediction_of_its_label_only(model):
    """Else something that the denoiser takes would be lost on the way, unseen."""
    for key, rows in model.table.embeddings.items():
        moved = rows.clone()
        moved[1] = moved[1] * 2 + 1
        other = replace(model, table=PromptTable(model.table.prompts, {**model.table.embeddings, key: moved}))
        changed = (asked(other) != asked(model)).flatten(1).any(1)
        assert changed.tolist() == [False, True, False], key


def test_time_reaches_the_prediction(model):
    with torch.no_grad():
        x, label = X[:1].expand(2, -1, -1, -1), torch.tensor([0, 0])
        early, late = model.ask(model.denoiser, x, torch.tensor([10, 900]), label)
    assert (early - late).abs().max() > 1e-3


def test_images_are_encoded_as_the_vae_says_and_decoded(model, pipe):
    side = 32 if model.family == "sana" else 16
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(2)) * 2 - 1
    config = pipe.vae.config
    shift, scale = config.get("shift_factor") or 0.0, config.get("scaling_factor")
    frames = scale is None and model.family != "flux_2"  # of a video model: latents are normalised channel by channel
    if frames:
        shift, deviation = (torch.tensor(config[f"latents_{n}"])[:, None, None] for n in ("mean", "std"))
        scale = 1 / deviation
    with torch.no_grad():
        found = pipe.vae.encode(images[:, :, None] if frames else images)
        z = found.latent_dist.mean if hasattr(found, "latent_dist") else found.latent
        drawn = pipe.vae.decode(z).sample.clamp(-1, 1)
        z, drawn = (z[:, :, 0], drawn[:, :, 0]) if frames else (z, drawn)
        # The pipeline of FLUX.2 itself encodes the images that it is shown.
        expected = pipe._encode_vae_image(images, None) if model.family == "flux_2" else (z - shift) * scale
    assert model.image_shape == (3, side, side)
    assert torch.equal(model.encode(images), expected)
    assert torch.allclose(model.decode(model.encode(images)), drawn, atol=1e-5)


def test_the_target_is_what_the_scheduler_says(model):
    """diffusers' own noising and target, at every kind of step, of the scheduler that the pipeline was saved with."""
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(3))
    noisy = model.noising.noised(X, noise, STEPS)
    if model.noising.prediction_type == "flow":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        at = model.noising.timesteps(STEPS)
        scheduler.sigmas = model.noising.sigmas.flip(0)
        scheduler.timesteps = scheduler.sigmas * 1000
        expected = scheduler.scale_noise(X, at, noise), noise - X
    else:
        # Euler's schedulers have a noising of their own scale.
        expected = diffusers.DDPMScheduler.from_config(model.scheduler.config).add_noise(X, noise, STEPS), noise
    assert torch.allclose(noisy.x_t, expected[0], atol=1e-5)
    assert torch.equal(model.noising.target(noisy), expected[1])


def drawn_by_the_pipeline(name, model, pipe, guidance_scale):
    """What the plain pipeline draws from X[:1] for "a cat" in four steps."""
    plain = model.pipeline()
    plain.set_progress_bar_config(disable=True)
    options = {"latents": X[:1], "guidance_scale": guidance_scale, "num_inference_steps": 4}
    if name.startswith("stable_diffusion_3"):
        options |= {} if plain.text_encoder_3 is None else {"max_sequence_length": tiny.T5_LENGTH}
    elif name.startswith("stable_diffusion"):
        plain.scheduler = model.sampler(4)
    elif name.startswith("pixart"):
        plain.scheduler = model.sampler(4)
        options |= {"max_sequence_length": tiny.T5_LENGTH, "use_resolution_binning": False}
    elif name.startswith("z_image"):  # whose 0 means no guidance
        options |= {"guidance_scale": guidance_scale - 1}
    elif name == "flux_2":
        options |= {"max_sequence_length": _tiny_flux_2.LENGTH}
    elif name.startswith("sana"):  # with a scheduler, an instruction and a length of its own
        options |= {"use_resolution_binning": False}
    elif name.startswith("qwen_image"):
        options |= {"latents": plain._pack_latents(X[:1], 1, 4, 8, 8), "guidance_scale": None, "true_cfg_scale": 1.0}
    else:
        options["latents"] = plain._pack_latents(X[:1], 1, 4, 8, 8)
        options |= {"max_sequence_length": tiny.T5_LENGTH, "guidance_scale": model.guidance}
        options |= {"true_cfg_scale": guidance_scale, "negative_prompt": ""}
    _, height, width = model.image_shape
    return plain(prompt="a cat", output_type="pt", height=height, width=width, **options).images * 2 - 1


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_loop_draws_what_the_pipeline_draws(name, model, pipe, guidance_scale):
    """Same solver, same noise: the pipeline is the oracle of embeddings, sizes, packing, guidance and decoding."""
    if name == "flux" and guidance_scale > 1:
        # The pipeline embeds one guidance in both passes, and the null condition has 1: so both are asked at 1.
        model = replace(model, guidance=1.0).with_prompts(PROMPTS)
    if model.family == "qwen_image" and guidance_scale > 1:
        pytest.skip("the pipeline's guidance is not the plain one: see test_qwen_image.py")
    own, null = torch.tensor([0]), torch.tensor([3])
    drawn = sample(model, X[:1], own, null, guidance_scale=guidance_scale, num_inference_steps=4)
    assert torch.allclose(drawn, drawn_by_the_pipeline(name, model, pipe, guidance_scale), atol=1e-4)
    unlike = sample(model, X[:1], torch.tensor([1]), null, guidance_scale=guidance_scale, num_inference_steps=4)
    assert (drawn - unlike).abs().max() > 1e-3, "else nothing here could fail"


def test_the_first_noise_alone_decides_on_the_image(model):
    changed = {"stochastic_sampling": True, "algorithm_type": "sde-dpmsolver++"}
    known = {key: value for key, value in changed.items() if key in model.scheduler.config}
    other = replace(model, scheduler=type(model.scheduler).from_config(model.scheduler.config, **known))
    first, second = (sample(other, X[:1], torch.tensor([0]), None, num_inference_steps=3) for _ in range(2))
    assert torch.equal(first, second)


def test_plain_diffusers_reads_what_is_saved_and_predicts_the_same(model, stored):
    # A pipeline that was saved without a part, diffusers reads only when told that the part is to be absent.
    absent = dict.fromkeys(key for key, part in model.parts.items() if part is None)
    plain = diffusers.DiffusionPipeline.from_pretrained(stored, use_safetensors=True, **absent)
    assert type(plain) is type(model.pipeline())
    assert torch.equal(asked(families.adopt(plain).with_prompts(PROMPTS)), asked(model))
    assert torch.equal(asked(model, denoiser=getattr(plain, model.DENOISER).eval()), asked(model))
    read = families.load(stored).with_prompts(PROMPTS)
    assert torch.equal(asked(read), asked(model))
    configs = ({k: v for k, v in m.scheduler.config.items() if k[0] != "_"} for m in (read, model))
    assert next(configs) == next(configs)
    assert read.options == model.options


def test_a_copy_has_a_denoiser_of_its_own_and_shares_the_rest(model):
    pupil = copy.deepcopy(model)
    assert all(pupil.parts[key] is part for key, part in model.parts.items())
    assert pupil.table is model.table
    with torch.no_grad():
        for p in pupil.denoiser.parameters():
            p += 0.01
    assert not torch.equal(asked(pupil), asked(model))


def test_an_adopted_pipeline_is_left_alone(model, pipe):
    assert getattr(pipe, model.DENOISER) is not model.denoiser
    assert model.vae.encoder.conv_in.weight.data_ptr() == pipe.vae.encoder.conv_in.weight.data_ptr()
    assert all(p.requires_grad for p in pipe.vae.parameters())
    assert not any(p.requires_grad for p in model.vae.parameters())


def test_text_is_cast_to_the_dtype_of_the_denoiser(model):
    assert asked(model, denoiser=copy.deepcopy(model.denoiser).bfloat16()).dtype == torch.bfloat16


def test_a_prompt_that_an_encoder_would_cut_is_refused(model):
    with pytest.raises(BadInput, match=r"'cats cats.* cats' has \d+ tokens .*reads \d+ and would cut"):
        model.with_prompts([" ".join(["cats"] * 80)])


def weights_of(saved):
    index = json.loads((saved / "model_index.json").read_text())
    return [p.relative_to(saved) for part in index for p in sorted(saved.glob(f"{part}/*.safetensors"))]


@pytest.mark.parametrize("family", [name for name in MADE if "-" not in name])
@pytest.mark.parametrize("harm", ["lost", "nan", "absent", "pickled", "another class"])
def test_every_part_of_a_directory_is_checked_in_one_line(family, harm, shelf, tmp_path):
    saved = shutil.copytree(shelf(family), tmp_path / "model")
    for weights in weights_of(saved):
        path, index = saved / weights, saved / "model_index.json"
        kept, entries = path.read_bytes(), index.read_text()
        tensors = load_file(path)
        first = min(name for name, tensor in tensors.items() if tensor.is_floating_point())
        if harm == "nan":
            tensors[first].flatten()[0] = float("nan")
        elif harm == "absent":
            del tensors[first]
        elif harm == "another class":
            changed = {**json.loads(entries), weights.parts[0]: ["diffusers", "UNet1DModel"]}
            index.write_text(json.dumps(changed))
        save_file(tensors, path, metadata={"format": "pt"})
        if harm in ("lost", "pickled"):
            path.unlink()
        if harm == "pickled":
            path.with_suffix(".bin").write_text("a pickle")
        said = {
            "lost": f"{weights} is missing",
            "nan": f"{weights.parts[0]} holds weights that are not finite",
            "absent": f"{weights.parts[0]} lacks weights",
            "pickled": rf"{weights.parts[0]} holds pickled weights only .*python -c .*save_pretrained",
            "another class": f"{weights.parts[0]} of .* is a UNet1DModel; this family reads a ",
        }
        with pytest.raises(BadInput, match=said[harm]) as refused:
            families.load(saved)
        assert "\n" not in str(refused.value)
        path.with_suffix(".bin").unlink(missing_ok=True)
        path.write_bytes(kept)
        index.write_text(entries)


def test_a_missing_tokenizer_is_not_an_empty_one(stored, tmp_path):
    saved = shutil.copytree(stored, tmp_path / "model")
    for tokenizer in sorted(saved.glob("tokenizer*")):
        tokenizer.rename(saved / "elsewhere")
        with pytest.raises(BadInput, match=f"{tokenizer.name}/.* is missing"):
            families.load(saved)
        (saved / "elsewhere").rename(tokenizer)


def test_widths_that_do_not_fit_are_refused(model, pipe):
    for width in type(model).widths(pipe):
        assert width.taken == width.given, width
    other = copy.copy(pipe)
    denoiser = copy.deepcopy(getattr(pipe, model.DENOISER))
    keys = ("pooled_projection_dim", "caption_channels", "cross_attention_dim", "cap_feat_dim", "joint_attention_dim")
    denoiser.register_to_config(**{next(key for key in keys if key in denoiser.config): 7})
    setattr(other, model.DENOISER, denoiser)
    with pytest.raises(BadInput, match=r"takes .*text 7 wide, the other parts make it \d+: they must agree"):
        families.adopt(other)
    setattr(other, model.DENOISER, getattr(pipe, model.DENOISER))


def test_flux_takes_the_size_of_the_data_and_is_saved_with_it(tmp_path):
    model = copy.deepcopy(built("flux")[1])
    assert tiny.flux().transformer.config["_sample_size"] == 8
    wide = model.with_size(16, 32)
    assert wide.image_shape == (3, 16, 32)
    assert not torch.equal(wide.noising.sigmas, model.noising.sigmas), "larger images are noised more"
    x = torch.randn(1, 4, 8, 16)
    with torch.no_grad():
        assert wide.ask(wide.denoiser, x, torch.tensor([500]), torch.tensor([0])).shape == x.shape
    wide.save(tmp_path / "m")
    assert families.load(tmp_path / "m").image_shape == (3, 16, 32)
    with pytest.raises(BadInput, match="multiples of 4; these are 18 x 16"):
        model.with_size(18, 16)


def test_flux_is_1024_pixels_wide_where_nothing_else_is_said():
    pipe = tiny.flux(shift=1.0)
    config = {k: v for k, v in pipe.transformer.config.items() if k != "_sample_size"}
    bare = type(pipe.transformer).from_config(config)
    pipe.transformer = bare
    assert families.adopt(pipe).image_shape[1:] == (256, 256)  # 128 cells of a VAE that halves once


def test_the_null_condition_of_a_distilled_model_is_the_empty_prompt_at_guidance_1():
    model = built("flux")[1]
    assert model.table.embeddings["guidance"].tolist() == [3.5, 3.5, 3.5, 1.0]
    assert "guidance" not in built("flux-undistilled")[1].table.embeddings
    assert replace(model, guidance=2.0).with_prompts(["a cat"]).table.embeddings["guidance"].tolist() == [2.0, 1.0]


def test_sdxl_is_told_its_own_size_and_no_crop():
    model = built("stable_diffusion_xl")[1]
    assert model.table.embeddings["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 4
    assert not model.table.embeddings["encoder_hidden_states"][3].any(), "zeros, as the pipeline guides away from"
    worded = families.adopt(tiny.stable_diffusion_xl(force_zeros_for_empty_prompt=False))
    assert worded.table.embeddings["encoder_hidden_states"].any()


def test_a_denoiser_that_embeds_its_guidance_is_refused():
    pipe = tiny.stable_diffusion()
    pipe.unet.register_to_config(time_cond_proj_dim=32)
    with pytest.raises(BadInput, match="unet takes embedded guidance 32 wide, the other parts make it 0"):
        families.adopt(pipe)


@pytest.mark.parametrize(
    ("part", "change", "said"), [("text_encoder_2", {"vocab_size": 10}, "vocabulary is 47 tokens")]
)
def test_t5_must_take_what_its_tokenizer_makes(part, change, said):
    pipe = tiny.flux()
    getattr(pipe, part).config.update(change)
    with pytest.raises(BadInput, match=said):
        families.adopt(pipe)


def test_another_scheduler_is_refused():
    pipe = tiny.stable_diffusion_3()
    pipe.scheduler = tiny.scheduler()
    with pytest.raises(BadInput, match="DDIMScheduler is none of flow matching"):
        families.adopt(pipe)


def test_the_first_pixart_tells_large_models_their_size():
    """diffusers' pipeline does so at 1024 pixels only; here a small one is made to ask."""
    pipe = tiny.pixart(diffusers.PixArtAlphaPipeline, sizes=True)
    model = families.adopt(pipe).with_prompts(PROMPTS)
    rows = {key: rows[[0, 1, 3]] for key, rows in model.table.embeddings.items()}
    told = {"resolution": torch.full((3, 2), 16.0), "aspect_ratio": torch.ones(3, 1)}
    with torch.no_grad():
        expected = pipe.transformer(X, timestep=STEPS, **rows, added_cond_kwargs=told).sample[:, :4]
    assert torch.equal(asked(model), expected)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # FLUX's norms, which then take longer
def test_half_precision_is_the_denoisers_alone(model):
    conditions, labels = model.conditions, torch.tensor([0, 1, 0])
    asked = (model, X[:, : model.encode(torch.zeros(1, *model.image_shape)).shape[1]], conditions.own(labels))
    null = None if conditions.null_label is None else conditions.null(labels)
    given = {"guidance_scale": 2.0, "num_inference_steps": 3}
    full, half = (sample(*asked, null, mixed_precision=m, **given) for m in ("no", "bf16"))
    assert half.dtype == torch.float32 and not torch.equal(full, half)
    assert (full - half).abs().mean() < 0.05


def test_the_table_of_sana_is_that_of_its_solver():
    """The solver's own noising, at the steps that it draws in; it rounds them to whole numbers."""
    model = built("sana")[1]
    solver = model.sampler(8)
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(3))
    for t in (solver.timesteps[0], solver.timesteps[5]):
        wanted = solver.add_noise(X, noise, t[None])
        assert torch.allclose(model.noising.noised(X, noise, t.expand(3)).x_t, wanted, atol=5e-3)
    rows = model.noising.timesteps(torch.arange(1000))
    assert float((rows[:, None] - solver.timesteps).abs().amin(0).max()) < 1.5, "steps drawn in are steps trained in"


def test_a_solver_without_flow_sigmas_is_refused_for_sana():
    with pytest.raises(BadInput, match="DPMSolverMultistepScheduler is none of flow matching"):
        families.adopt(tiny.sana(scheduler=diffusers.DPMSolverMultistepScheduler()))


def test_the_null_condition_of_sana_has_no_instruction():
    model = built("sana")[1]
    words = model.table.embeddings["encoder_attention_mask"].sum(1)
    assert words.tolist() == [7, 7, 9, 1], "start, the end of the instruction, and the prompt; start alone"
    alone = model.pipeline().encode_prompt("a cat", False, complex_human_instruction=None)[0][0, 1]
    assert not torch.allclose(alone, model.table.embeddings["encoder_hidden_states"][0, 2], atol=1e-3)
    with pytest.raises(BadInput, match=r"has 301 tokens .* reads 299 and would cut"):
        model.with_prompts(["a" * 300])
