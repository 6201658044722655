"""The Python interface, as docs show it."""

import math

import numpy as np
import pytest
import torch

import erasediff
from erasediff.families import tiny
from erasediff.training.config import TrainingConfig

QUICK = TrainingConfig(max_train_steps=4, train_batch_size=8, checkpointing_steps=0)


def test_erase_a_pipeline_in_memory(squares, tmp_path):
    pipeline = tiny.unet2d().pipeline()
    before = {k: v.clone() for k, v in pipeline.unet.state_dict().items()}
    run = erasediff.erase(
        pipeline,
        target=erasediff.Class(1),
        data=squares,
        method=erasediff.EraseDiff(eta=0.1),
        training=QUICK,
        quiet=True,
    )
    assert len(run.history) == 4
    assert run.directory is None
    assert run.record["base_model"]["source"] is None
    assert all(torch.equal(before[k], v) for k, v in pipeline.unet.state_dict().items())
    images = run.pipeline(class_labels=[0, 2], num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 8, 8, 1)
    run.save(tmp_path / "run")
    again = erasediff.erase(tmp_path / "run", "class:2", squares, training=QUICK, quiet=True)  # one after the other
    assert again.record["target"] == ["class:2"]
    with pytest.raises(erasediff.BadInput, match="already holds a run"):
        run.save(tmp_path / "run")


def test_settings_one_by_one_and_unknown_ones(squares):
    run = erasediff.erase(
        tiny.unet2d().pipeline(), "class:1", squares, max_train_steps=2, train_batch_size=4, seed=5, quiet=True
    )
    assert run.record["seed"] == 5
    with pytest.raises(erasediff.BadInput, match="did you mean max_train_steps"):
        erasediff.erase(tiny.unet2d().pipeline(), "class:1", squares, max_train_step=2)


def test_a_model_in_memory_has_no_run_though_one_lies_in_the_current_directory(squares, tmp_path, monkeypatch):
    erasediff.erase(tiny.unet2d().pipeline(), "class:1", squares, output_dir=tmp_path, training=QUICK, quiet=True)
    monkeypatch.chdir(tmp_path)
    run = erasediff.erase(tiny.unet2d().pipeline(), "class:2", squares, training=QUICK, quiet=True)
    assert run.record["gone"] == []
    with pytest.raises(erasediff.BadInput, match="no data given"):
        erasediff.erase(tiny.unet2d().pipeline(), "class:2")


def test_several_targets_at_once(squares):
    run = erasediff.erase(
        tiny.unet2d().pipeline(), ["class:1", erasediff.Class(2)], squares, training=QUICK, quiet=True
    )
    assert run.record["target"] == ["class:1", "class:2"]
    assert run.model.conditions.excluded == (1, 2)


def test_samples_of_an_unconditional_model(squares, tmp_path, small_audit):
    (tmp_path / "list.txt").write_text("0\n1\n2\n3\n")
    run = erasediff.erase(
        tiny.unet2d(classes=0).pipeline(),
        erasediff.Samples(str(tmp_path / "list.txt")),
        squares,
        erasediff.EraseDiff(forget_target="noise", retain="denoise"),
        training=QUICK,
        quiet=True,
    )
    assert len(run.history) == 4
    done = erasediff.audit(
        run.pipeline, target=str(erasediff.Samples(str(tmp_path / "list.txt"))), data=squares, quiet=True
    )
    assert done.result.find("frechet_distance") is not None
    assert done.result.find("forget_rate") is None
    assert any("no base model" in sentence for sentence in done.verdict.because)


def test_what_is_no_model_or_data(squares):
    with pytest.raises(erasediff.BadInput, match="is no pipeline that a family reads"):
        erasediff.erase(object(), "class:1", squares)
    with pytest.raises(erasediff.BadInput, match="no target given"):
        erasediff.erase(tiny.unet2d().pipeline(), [], squares)
    with pytest.raises(erasediff.BadInput, match="no data given"):
        erasediff.erase(tiny.unet2d().pipeline(), "class:1")


def test_training_excludes_what_it_should(squares):
    run = erasediff.train(squares, exclude=["class:1"], training=QUICK, quiet=True)
    for alone in ("class:1", erasediff.Class(1)):
        same = erasediff.train(squares, exclude=alone, training=QUICK, quiet=True)
        assert same.record["data"] == run.record["data"] and same.record["target"] == ["class:1"]
    everything = erasediff.train(squares, training=QUICK, quiet=True)
    assert run.record["data"]["n"] < everything.record["data"]["n"] == int((~squares.held_out).sum())
    assert all(math.isfinite(r["retain_loss"]) for r in run.history)


def test_an_unlabelled_data_set_makes_an_unconditional_model():
    from erasediff.data.images import build

    data = build("grey", np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8), None)
    run = erasediff.train(data, training=QUICK, quiet=True)
    assert run.model.conditions.num_classes == 0
    assert type(run.pipeline).__name__ == "DDPMPipeline"
