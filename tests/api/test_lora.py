"""LoRA runs: what they write, and that every MODEL argument takes them."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.api._lora_runs import SETTINGS, asked, captioned, expected, inputs, make
from tests.conftest import make_squares
from tests.families import _tiny_text

import erasediff
from erasediff import families
from erasediff.api.export import export
from erasediff.api.inputs import load_model
from erasediff.api.purge import purge
from erasediff.cli.main import main
from erasediff.errors import BadInput
from erasediff.families.lora import PEFT_FILE, PIPELINE_FILE, read
from erasediff.families.tiny import TINY


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make(tmp_path_factory.mktemp("lora"), "sd", "unet2d", "dit")


@pytest.mark.parametrize(("name", "file"), [("sd", PIPELINE_FILE), ("unet2d", PEFT_FILE), ("dit", PEFT_FILE)])
def test_the_run_directory_holds_the_lora_and_no_model(place, name, file):
    run = place / name / "run"
    record = json.loads((run / "run.json").read_text())
    assert (run / "lora" / file).is_file()
    assert not (run / "model").exists()
    assert list(record["weights"]) == [file]
    assert (record["lora"]["rank"], record["lora"]["alpha"]) == (2, 3.0)
    assert record["training"]["parameters"] == "attention"
    assert record["base_model"]["source"] == str(place / name / "base")
    assert set(read(run / "lora").layers) == set(record["lora"]["layers"])
    card = (run / "README.md").read_text()
    assert "load_lora_weights" in card
    assert "LoRA: `rank 2, alpha 3`" in card


def test_a_checkpoint_holds_the_adapters_only(place):
    tensors = load_file(place / "sd/run/checkpoints/checkpoint-2/model.safetensors")
    assert tensors
    assert all(".lora_A." in name or ".lora_B." in name for name in tensors)


@pytest.mark.parametrize("name", ["sd", "unet2d", "dit"])
@pytest.mark.parametrize("given", ["run", "run/lora"])
def test_a_model_argument_takes_a_run_and_its_lora(place, name, given):
    model, source, hashes = load_model(place / name / given)
    assert torch.equal(asked(model.denoiser, inputs(name)), expected(place, name))
    assert source.name == "lora"
    assert hashes


def test_a_lora_without_its_run_is_no_model(place, tmp_path):
    export(place / "dit/run", "lora", tmp_path / "lora")
    with pytest.raises(BadInput, match="nothing says what it was trained on"):
        load_model(tmp_path / "lora")


def test_sequential_requests_a_lora_on_a_lora_and_whole_weights_on_it(place, tmp_path):
    again = {**SETTINGS, "output_dir": tmp_path / "second"}
    second = erasediff.erase(place / "unet2d/run", "class:2", make_squares(), **again)
    assert second.record["gone"] == ["class:1"]
    assert second.record["base_model"]["source"] == str(place / "unet2d/run/lora")
    assert torch.equal(
        asked(families.load(tmp_path / "second").denoiser, inputs("unet2d")),
        asked(second.model.denoiser, inputs("unet2d")),
    )
    whole = {**SETTINGS, "rank": None, "lora_alpha": None, "output_dir": tmp_path / "third"}
    third = erasediff.erase(tmp_path / "second", "class:3", make_squares(), **whole)
    assert third.record["gone"] == ["class:2", "class:1"]
    assert (tmp_path / "third/model").is_dir()
    assert not (tmp_path / "third/lora").exists()


def test_a_moved_tree_is_found_by_the_way_from_the_run_to_its_base(place, tmp_path):
    shutil.copytree(place / "unet2d", tmp_path / "moved")
    record = json.loads((tmp_path / "moved/run/run.json").read_text())
    record["base_model"]["source"] = str(tmp_path / "elsewhere")
    (tmp_path / "moved/run/run.json").write_text(json.dumps(record))
    wanted = expected(place, "unet2d")
    assert torch.equal(asked(families.load(tmp_path / "moved/run").denoiser, inputs("unet2d")), wanted)
    shutil.rmtree(tmp_path / "moved/base")
    with pytest.raises(BadInput, match=r"a LoRA on .*elsewhere, which is gone"):
        families.load(tmp_path / "moved/run")


def test_a_base_that_was_changed_since_is_refused(place, tmp_path):
    shutil.copytree(place / "unet2d", tmp_path / "moved")
    record = json.loads((tmp_path / "moved/run/run.json").read_text())
    record["base_model"]["source"] = str(tmp_path / "moved/base")
    (tmp_path / "moved/run/run.json").write_text(json.dumps(record))
    TINY["unet2d"](seed=1).save(tmp_path / "moved/base")
    with pytest.raises(BadInput, match=r"is not what the LoRA in .* was trained on: unet/.* has changed"):
        families.load(tmp_path / "moved/run")


def test_a_base_handed_over_as_an_object_is_written_merged_beside_the_lora(tmp_path):
    run = erasediff.erase(
        TINY["unet2d"]().pipeline(), "class:1", make_squares(), output_dir=tmp_path / "run", **SETTINGS
    )
    assert run.output == tmp_path / "run/model"
    assert (tmp_path / "run/lora" / PEFT_FILE).is_file()
    wanted = asked(run.model.denoiser, inputs("unet2d"))
    assert torch.equal(asked(families.load(tmp_path / "run").denoiser, inputs("unet2d")), wanted)
    export(tmp_path / "run", "lora", tmp_path / "lora")
    base = TINY["unet2d"]()
    read(tmp_path / "lora").merge(base.denoiser)
    assert torch.equal(asked(base.denoiser, inputs("unet2d")), wanted)


def test_a_run_in_memory_can_be_saved_and_its_pipeline_is_plain(place, tmp_path):
    run = erasediff.erase(place / "sd/base", "class:a cat", captioned(), **SETTINGS)
    wanted = expected(place, "sd")
    assert torch.equal(asked(run.pipeline.unet, inputs("sd")), wanted)
    assert not any("base_layer" in key for key in run.pipeline.unet.state_dict())
    run.save(tmp_path / "run")
    assert not (tmp_path / "run/model").exists()
    assert torch.equal(asked(families.load(tmp_path / "run").denoiser, inputs("sd")), wanted)


@pytest.mark.parametrize("name", ["sd", "unet2d", "dit"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(place, tmp_path, name):
    shutil.copytree(place / name / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/lora")
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["checkpoint-2"]
    data, target = (captioned(), "class:a cat") if name == "sd" else (make_squares(), "class:1")
    again = {**SETTINGS, "output_dir": tmp_path / "run", "resume_from_checkpoint": "latest"}
    run = erasediff.erase(place / name / "base", target, data, **again)
    assert len(run.history) == 1
    assert torch.equal(asked(run.model.denoiser, inputs(name)), expected(place, name))
    with pytest.raises(BadInput, match="its rank was 2, now given 1"):
        erasediff.erase(place / name / "base", target, data, **{**again, "rank": 1})


def test_purge_says_that_the_run_needs_its_base(place, tmp_path):
    shutil.copytree(place / "dit/run", tmp_path / "run")
    removed, notes = purge(tmp_path / "run")
    assert [p.name for p in removed] == ["checkpoints", "cache"]
    assert any("cannot do without it" in note for note in notes)
    assert (tmp_path / "run/lora").is_dir()


def test_an_audit_and_a_comparison_take_a_lora_run(place, small_audit, tmp_path):
    asked_ = {"data": make_squares(), "base": place / "unet2d/base", "attacks": ["membership"], "quiet": True}
    found = erasediff.audit(place / "unet2d/run", output_dir=tmp_path / "audit", **asked_)
    assert found.result.target == "class:1"
    assert found.result.find("forget_rate").n == 20
    hashes = json.loads((place / "unet2d/run/run.json").read_text())["weights"]
    assert found.result.setting["model_hashes"]["erased"] in hashes.values()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rank", "99"], "rank 99 is more than layer mid_block.attentions.0.to_q has: 8 at most"),
        (["--rank", "2", "--parameters", "cross_attention"], "names no weight of this UNet2DModel; it has: full"),
        (["--parameters", "cross_attention"], "names no weight of this UNet2DModel; it has: full"),
        (["--rank", "0"], "rank must be at least 1"),
        (["--lora_alpha", "2"], "give a rank"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
def test_bad_input_is_one_line_and_nothing_is_written(place, tmp_path, capsys, flags, said, dry):
    np.savez(tmp_path / "squares.npz", images=make_squares().images[:, 0], labels=make_squares().labels)
    line = ["erase", str(place / "unet2d/base"), "--target", "class:1", "--data", str(tmp_path / "squares.npz")]
    assert main([*line, "--output_dir", str(tmp_path / "run"), *flags, *dry]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_start_in_closed_form_takes_no_rank():
    pipeline = _tiny_text.stable_diffusion()
    few = {"num_forget_images": 8, "num_retain_images": 12, "dry_run": True, "quiet": True}
    with pytest.raises(BadInput, match=r"init uce edits whole weights.*leave out rank, or erase with method uce first"):
        erasediff.erase(pipeline, "concept:cat", anchor="dog", init="uce", rank=2, retain_prompts=["a", "b"], **few)


def test_train_takes_no_rank():
    with pytest.raises(BadInput, match=r"train makes whole weights.*leave out rank"):
        erasediff.train(make_squares(), rank=2, quiet=True)
