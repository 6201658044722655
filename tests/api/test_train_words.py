"""``train`` on captions, from nothing and further, through the command line; what it refuses leaves nothing behind."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

import erasediff
from erasediff.cli.main import main
from erasediff.families.tiny import TINY

FEW = ["--max_train_steps", "2", "--train_batch_size", "4", "--checkpointing_steps", "0", "--quiet"]
SMALL = ["--block_out_channels", "8", "8"]
SAID = ["a photo of a sneaker", "sneakers on a table", "a boot"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.npz"
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    rows = np.arange(30) % 3
    arrays = {"text": np.array(SAID)[rows], "labels": rows // 2, "class_names": np.array(["sneaker", "boot"])}
    np.savez(path, images=images, **arrays)
    return str(path)


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    place = tmp_path_factory.mktemp("base") / "run"
    asked = ["train", "--data", data, "--caption_column", "text", "--output_dir", str(place), *SMALL, *FEW]
    assert main(asked) == 0
    return place


def read(place):
    return json.loads((place / "run.json").read_text())


def test_two_steps_give_a_plain_pipeline(base):
    record = read(base)
    said = {k: record["asked"][k] for k in ("caption_column", "caption_template", "captions")}
    assert said == {"caption_column": "text", "caption_template": ["{}"], "captions": 3}
    assert record["method"]["fields"] == {"null_share": 0.1}
    pipe = StableDiffusionPipeline.from_pretrained(base / "model")
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a sneaker", num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 1)


def test_the_same_seed_gives_the_same_bits(base, data):
    run = erasediff.train(
        data,
        caption_column="text",
        architecture=erasediff.families.architecture.Architecture(block_out_channels=(8, 8)),
        max_train_steps=2,
        train_batch_size=4,
        quiet=True,
    )
    saved = load_file(base / "model/unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(saved[name], w) for name, w in run.pipeline.unet.state_dict().items())


def test_the_denoiser_is_trained_further_and_nothing_else(base, data, tmp_path):
    asked = ["train", "--data", data, "--caption_template", "my {}", "--caption_template", "{}s"]
    given = [*asked, "--pretrained_model_name_or_path", str(base), "--output_dir", str(tmp_path / "more"), *FEW]
    assert main(given) == 0
    record = read(tmp_path / "more")
    assert record["asked"]["caption_template"] == ["my {}", "{}s"]
    assert record["base_model"]["source"] == str(base / "model")
    before, after = read(base)["weights"], record["weights"]
    assert {part for part in before if before[part] != after[part]} == {"unet/diffusion_pytorch_model.safetensors"}


def test_what_it_learnt_in_captions_is_erased_as_a_concept(base, data, tmp_path):
    given = ["--target", "concept:sneaker", "--data", data, "--prompt_template", "a {}", *FEW]
    assert main(["erase", str(base), *given, "--output_dir", str(tmp_path / "erased")]) == 0
    assert read(tmp_path / "erased")["target"] == ["concept:sneaker"]


@pytest.mark.parametrize(
    ("words", "exclude", "left"),
    [
        (["--caption_column", "text"], ["concept:sneaker"], {0: 0, 1: 8, 2: 8}),
        (["--caption_column", "text"], ["concept:sneaker", "concept:sneakers"], {0: 0, 1: 0, 2: 8}),
        (["--caption_template", "{}s up"], ["class:sneaker"], {0: 0, 1: 0, 2: 8}),
    ],
)
def test_the_retrained_model_never_sees_what_is_excluded(data, tmp_path, words, exclude, left):
    named = [part for target in exclude for part in ("--exclude", target)]
    asked = ["train", "--data", data, *words, *named, "--output_dir", str(tmp_path / "r"), *SMALL, *FEW]
    assert main(asked) == 0
    assert read(tmp_path / "r")["target"] == exclude
    # Labels hold out 4 sneakers of 20 and 2 boots of 10; of what is left the captions are counted.
    assert abs(read(tmp_path / "r")["data"]["n"] - sum(left.values())) <= 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--caption_column", "caption"], "has no caption column 'caption'; its columns of text: text"),
        (["--caption_template", "shoe"], "needs {} once"),
        (["--caption_column", "text", "--unconditional"], "a model trained on captions is conditional"),
        (["--caption_column", "text", "--exclude", "concept:hat"], "no class or caption says 'hat'"),
        (["--caption_template", "a " * 80 + "{}"], "82 tokens|83 tokens"),
        (["--caption_column", "text", "--block_out_channels", *"84848"], "8 x 8 cannot be halved 4 times"),
        (["--caption_column", "text", "--pretrained_model_name_or_path", "BASE", *SMALL], "keeps its architecture"),
        (["--caption_template", "a " * 40 + "{}", "--pretrained_model_name_or_path", "BASE"], "the model reads 32"),
        (["--caption_column", "text", "--pretrained_model_name_or_path", "nowhere"], "model 'nowhere' does not exist"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(given, said, base, data, tmp_path, capsys):
    line = [str(base) if part == "BASE" else part for part in given]
    assert main(["train", "--data", data, *line, "--output_dir", str(tmp_path / "out"), *FEW]) == 2
    (error,) = [one for one in capsys.readouterr().err.splitlines() if one]
    assert any(part in error for part in said.split("|")), error
    assert not (tmp_path / "out").exists()


def test_a_model_asked_by_number_is_trained_further_without_words(squares, tmp_path):
    TINY["unet2d"]().save(tmp_path / "model")
    few = {"max_train_steps": 1, "train_batch_size": 4, "quiet": True}
    run = erasediff.train(squares, pretrained_model_name_or_path=tmp_path / "model", **few)
    assert run.model.family == "unet2d"
    assert "architecture" not in run.record
    with pytest.raises(erasediff.errors.BadInput, match="asked by class number, not in words"):
        erasediff.train(squares, pretrained_model_name_or_path=tmp_path / "model", caption_template="a {}", **few)
