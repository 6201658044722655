"""Checkpoints: whole or not at all, damaged ones passed over aloud, no pickle anywhere."""

import json

import pytest
import torch

from erasediff.errors import BadInput
from erasediff.training.checkpoint import STATE, Checkpoint, find, listed, read, save


def checkpoint(step):
    return Checkpoint(step, {"model": {"w": torch.full((3,), float(step))}}, {"stopping": {"x": 0.1 + 0.2}})


def test_round_trip_is_exact(tmp_path):
    path = save(tmp_path, checkpoint(7), limit=2)
    again = read(path)
    assert again.step == 7
    assert torch.equal(again.tensors["model"]["w"], torch.full((3,), 7.0))
    assert again.counters["stopping"] == {"x": 0.1 + 0.2}


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 10, 20, 100):
        save(tmp_path, checkpoint(step), limit=2)
    assert [p.name for p in listed(tmp_path)] == ["checkpoint-20", "checkpoint-100"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "change", "state"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, damage):
    save(tmp_path, checkpoint(1), limit=3)
    newest = save(tmp_path, checkpoint(2), limit=3)
    weights = newest / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-4])
    elif damage == "remove":
        weights.unlink()
    elif damage == "change":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\7")
    else:
        (newest / STATE).write_text("{")
    with pytest.warns(UserWarning, match="falling back"):
        assert find(tmp_path, "latest").step == 1
    with pytest.raises(BadInput):
        find(tmp_path, str(newest))


def test_no_usable_checkpoint_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(BadInput, match="--overwrite"):
        find(tmp_path, "latest")


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    import erasediff.training.checkpoint as module

    save(tmp_path, checkpoint(1), limit=2)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(BadInput, match="no space left on device"):
        save(tmp_path, checkpoint(2), limit=2)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]


def test_files_are_safetensors_and_json_only(tmp_path):
    path = save(tmp_path, checkpoint(1), limit=2)
    assert sorted(p.name for p in path.iterdir()) == ["model.safetensors", STATE]
    assert json.loads((path / STATE).read_text())["step"] == 1
