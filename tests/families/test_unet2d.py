"""The UNet2DModel family reads and writes plain diffusers directories, and runs no code found in them."""

import json
import subprocess
import sys

import pytest
import torch
from diffusers import DDPMPipeline, DiffusionPipeline, UNet2DModel
from safetensors.torch import load_file, save_file

from erasediff import families
from erasediff.errors import BadInput
from erasediff.families import tiny
from erasediff.families.architecture import Architecture, norm_groups
from erasediff.families.unet2d import fresh

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def saved(tmp_path):
    model = tiny.unet2d()
    model.save(tmp_path / "model")
    return model, tmp_path / "model"


def ask(denoiser):
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return denoiser(x, torch.tensor([1, 50, 99]), torch.tensor([0, 1, 4])).sample


def test_what_is_saved_predicts_the_same_in_plain_diffusers(saved):
    model, directory = saved
    again = UNet2DModel.from_pretrained(directory / "unet")
    assert torch.equal(ask(again), ask(model.denoiser))
    assert isinstance(DDPMPipeline.from_pretrained(directory), DDPMPipeline)


def test_null_label_and_class_names_come_back(saved):
    loaded = families.load(saved[1])
    assert loaded.conditions.num_classes == 4
    assert loaded.conditions.null_label == 4
    assert loaded.class_names == ("0", "1", "2", "3")


def test_channels_last_weights_are_saved_contiguous(tmp_path):
    model = tiny.unet2d()
    expected = ask(model.denoiser)
    model.denoiser.to(memory_format=torch.channels_last)
    model.save(tmp_path / "model")
    assert torch.allclose(ask(families.load(tmp_path / "model").denoiser), expected, atol=1e-6)


def test_code_in_a_model_directory_is_not_run(saved, tmp_path):
    (saved[1] / "pipeline.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    families.load(saved[1])
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_pipeline_beside_the_weights_draws_classes_without_erasediff(saved):
    program = f"""
import sys
sys.modules["erasediff"] = None
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({str(saved[1])!r}, custom_pipeline={str(saved[1])!r}, trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
out = pipe(class_labels=[1, "2"], guidance_scale=2.0, num_inference_steps=2, output_type="np").images
print(type(pipe).__name__, out.shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ClassConditionalDDPMPipeline (2, 8, 8, 1)", done.stderr


def test_an_unconditional_model_round_trips(tmp_path):
    tiny.unet2d(classes=0).save(tmp_path / "m")
    loaded = families.load(tmp_path / "m")
    assert loaded.conditions.num_classes == 0
    assert not (tmp_path / "m" / "pipeline.py").exists()
    assert isinstance(DiffusionPipeline.from_pretrained(tmp_path / "m"), DDPMPipeline)


@pytest.mark.parametrize("lost", ["unet/config.json", WEIGHTS, "scheduler/scheduler_config.json"])
def test_an_incomplete_directory_names_what_is_missing(saved, lost):
    (saved[1] / lost).unlink()
    with pytest.raises(BadInput, match=lost):
        families.load(saved[1])


def test_weights_that_are_not_finite_are_refused(saved):
    tensors = load_file(saved[1] / WEIGHTS)
    tensors["conv_in.bias"][0] = float("nan")
    save_file(tensors, saved[1] / WEIGHTS)
    with pytest.raises(BadInput, match=r"not finite.*conv_in\.bias"):
        families.load(saved[1])


def test_weights_that_are_missing_are_not_drawn_at_random(saved):
    """diffusers fills them in and only logs it."""
    tensors = load_file(saved[1] / WEIGHTS)
    del tensors["conv_in.bias"]
    save_file(tensors, saved[1] / WEIGHTS)
    with pytest.raises(BadInput, match=r"unet lacks weights of a UNet2DModel: 1, the first is conv_in\.bias"):
        families.load(saved[1])


def test_pickled_weights_are_refused_with_the_way_to_convert_them(saved):
    (saved[1] / WEIGHTS).rename(saved[1] / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(
        BadInput, match=r"pickled weights only \(diffusion_pytorch_model\.bin\).*safetensors"
    ) as refused:
        families.load(saved[1])
    assert "\n" not in str(refused.value)


def test_truncated_weights_are_refused(saved):
    path = saved[1] / WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInput, match="cannot be read"):
        families.load(saved[1])


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda d: d / "nowhere", "does not exist"),
        (lambda d: d, "no diffusers pipeline"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, prepare, said):
    with pytest.raises(BadInput, match=said):
        families.load(prepare(tmp_path))


def test_another_pipeline_is_refused_with_those_that_are_read(saved):
    index = json.loads((saved[1] / "model_index.json").read_text())
    (saved[1] / "model_index.json").write_text(json.dumps({**index, "_class_name": "MochiPipeline"}))
    with pytest.raises(BadInput, match=r"MochiPipeline.*DDPMPipeline.*FluxPipeline"):
        families.load(saved[1])


def test_a_pipeline_object_is_copied_not_changed():
    model = tiny.unet2d()
    adopted = families.adopt(model.pipeline())
    with torch.no_grad():
        adopted.denoiser.conv_in.bias += 1
    assert not torch.equal(adopted.denoiser.conv_in.bias, model.denoiser.conv_in.bias)
    assert adopted.conditions == model.conditions


@pytest.mark.parametrize("name", sorted(tiny.TINY))
def test_every_miniature_samples(name):
    from erasediff.families.sampling import sample

    model = tiny.TINY[name]()
    labels = torch.tensor([0, 1])
    own = model.conditions.own(labels)
    null = model.conditions.null(labels)
    noise = torch.randn_like(model.encode(torch.zeros(2, 1, 8, 8)))
    images = sample(model, noise, own, null, guidance_scale=2.0, num_inference_steps=3)
    assert images.shape == (2, 1, 8, 8)
    assert images.abs().max() <= 1
    assert torch.isfinite(images).all()


@pytest.mark.parametrize("name", ["unet2d", "unet2d-v", "unet2d-sample"])
def test_class_and_time_reach_the_prediction(name):
    """Groups of one channel would normalise both away, and nothing conditional could be tested on miniatures."""
    denoiser = tiny.TINY[name]().denoiser
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        said = [denoiser(x, torch.tensor(t), torch.tensor([c])).sample for t, c in ((5, 0), (5, 1), (90, 0))]
    assert (said[0] - said[1]).abs().max() > 1e-3
    assert (said[0] - said[2]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("asked", "attends"),
    [
        ({}, [False, False, False]),
        ({"attention": True}, [False, True, True]),
        ({"attention_levels": (1,)}, [False, True, False]),
        ({"attention_levels": (0, 2), "attention": True}, [True, False, True]),
    ],
)
def test_attention_is_where_it_was_asked_for(asked, attends):
    """The blocks upwards mirror those downwards."""
    config = fresh((1, 8, 8), ["a", "b"], block_out_channels=(8, 8, 8), **asked).denoiser.config
    assert [name == "AttnDownBlock2D" for name in config.down_block_types] == attends
    assert [name == "AttnUpBlock2D" for name in reversed(config.up_block_types)] == attends


@pytest.mark.parametrize("level", [-1, 2])
def test_a_level_that_is_not_there_is_refused(level):
    with pytest.raises(BadInput, match=f"between 0 and 1, got {level}: .*8, 8 make 2 levels"):
        Architecture(block_out_channels=(8, 8), attention_levels=(level,)).build((1, 8, 8), ["a"])


def test_the_network_of_ddpm_for_cifar10_can_be_built():
    """Ho et al., arXiv:2006.11239, app. B: 35.7 M weights, attention at 16 x 16 only; and 11 embedded classes."""
    paper = Architecture(
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        attention_levels=(1,),
        dropout=0.1,
        prediction_type="epsilon",
        beta_schedule="linear",
    )
    with torch.device("meta"):
        unet = paper.build((3, 32, 32), [str(c) for c in range(10)]).denoiser
    assert sum(p.numel() for p in unet.parameters()) == 35_746_307 + 11 * 512
    assert unet.config.norm_num_groups == 32


def test_what_is_recorded_of_an_architecture_is_what_json_gives_back():
    """Else no run could be resumed; and runs that were begun before there were levels can be."""
    asked = Architecture(block_out_channels=(8, 8), attention_levels=(0, 1)).recorded((1, 8, 8))
    assert json.loads(json.dumps(asked)) == asked
    assert asked["attention_levels"] == [0, 1]
    assert "attention_levels" not in Architecture().recorded((1, 8, 8))


def test_a_hub_id_that_cannot_be_fetched_says_so():
    with pytest.raises(BadInput, match="no path here, and cannot be had from the Hub"):
        families.load("somebody/some-model")


def test_a_hub_snapshot_is_read_without_its_code(saved, monkeypatch):
    import huggingface_hub

    asked = {}

    def snapshot(name, **options):
        asked.update(options, name=name)
        return str(saved[1])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert families.load("somebody/some-model@v1").conditions.num_classes == 4
    assert asked == {
        "name": "somebody/some-model",
        "revision": "v1",
        "allow_patterns": ["*.json", "*/*.safetensors", "*/merges.txt", "*/spiece.model", "*/chat_template.jinja"],
    }


@pytest.mark.parametrize(
    ("widths", "groups"), [((24, 48), 6), ((50, 100), 10), ((14, 28), 2), ((18, 36), 3), ((5, 10), 1)]
)
def test_groups_of_norms_divide_every_width(widths, groups):
    assert norm_groups(widths) == groups
    assert fresh((1, 8, 8), (), block_out_channels=widths).denoiser.config.norm_num_groups == groups
