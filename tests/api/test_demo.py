"""The demo end to end, with a few steps and a few samples: `make demo` itself takes minutes."""

import json

import pytest

from erasediff.api import demo as module
from erasediff.errors import BadInput


def test_an_occupied_directory_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "base").mkdir()
    with pytest.raises(BadInput, match=r"already holds base; give another one, or --overwrite"):
        module.demo(tmp_path)


@pytest.mark.slow
def test_the_demo_writes_what_it_promises(tmp_path, monkeypatch, small_audit):
    few = {"max_train_steps": 4, "train_batch_size": 8, "checkpointing_steps": 0}
    monkeypatch.setattr(module, "TRAINING", few)
    monkeypatch.setattr(module, "ERASING", few)
    said = []
    done = module.demo(tmp_path / "demo", seed=1, quiet=True, say=said.append)
    assert [text.split("/5")[0][-1] for text in said] == ["1", "2", "3", "4", "5", "5"]
    for name in ("base", "retrained", "control", "erased"):
        assert json.loads((tmp_path / "demo" / name / "run.json").read_text())["seed"] == 1
        assert (tmp_path / "demo" / name / "model" / "model_index.json").exists()
    assert json.loads((tmp_path / "demo" / "retrained" / "run.json").read_text())["target"] == ["class:7"]
    assert (tmp_path / "demo" / "audit" / "report.html").exists()
    assert set(done.result.subjects()) == {"erased", "base", "control", "retrained"}
    assert "What was measured" in (tmp_path / "demo" / "erased" / "README.md").read_text()
