"""Runs made elsewhere that a plan takes as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import make_squares

import erasediff
from erasediff.auditing.classifier import train_classifier
from erasediff.errors import BadInput
from erasediff.families import tiny

FEW = {"forget": 8, "per_class": 4, "unconditional": 8, "num_inference_steps": 2, "resamples": 3, "attacks": []}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Two base models, a judge, a plan of one method, and one run of each seed that the plan did not make."""
    place = tmp_path_factory.mktemp("house")
    data = make_squares()
    np.savez(place / "data.npz", images=data.images[:, 0].numpy(), labels=data.labels.numpy())
    kept, held = ~data.held_out, (data.floats(data.held_out), data.labels[data.held_out])
    judge = train_classifier(data.floats(kept), data.labels[kept], num_classes=4, held_out=held, seed=0, steps=20)
    judge.save(place / "judge")
    loop = {"max_train_steps": 4, "train_batch_size": 4, "checkpointing_steps": 0}
    for seed in (0, 1):
        tiny.unet2d(seed=seed).save(place / f"base-{seed}")
        erasediff.erase(
            place / f"base-{seed}",
            "class:1",
            str(place / "data.npz"),
            "neg_grad",
            output_dir=place / f"theirs-{seed}",
            seed=seed,
            quiet=True,
            **loop,
        )
    plan = {
        "models": {s: str(place / f"base-{s}") for s in (0, 1)},
        "data": str(place / "data.npz"),
        "targets": ["class:1"],
        "seeds": [0, 1],
        "methods": {"erasediff": {}},
        "runs": {"theirs": {"class:1": {s: str(place / f"theirs-{s}") for s in (0, 1)}}},
        "training": loop,
        "audit": {"suite": "quick", "classifier": str(place / "judge"), **FEW},
    }
    return SimpleNamespace(place=place, plan=plan)


def contents(place: Path) -> dict[Path, bytes]:
    """Every file of the runs that are there."""
    return {p: p.read_bytes() for run in place.glob("theirs-*") for p in run.rglob("*") if p.is_file()}


def copied(house, to: Path, **changes):
    """The run of seed 0 elsewhere, its record changed, and the plan with it in the place of the first."""
    shutil.copytree(house.place / "theirs-0", to)
    record = json.loads((to / "run.json").read_text())
    (to / "run.json").write_text(json.dumps({**record, **changes}))
    return {**house.plan, "runs": {"theirs": {"class:1": {0: str(to)}}}}


def test_a_run_made_elsewhere_is_audited_once_as_the_others_are_and_is_not_touched(house, tmp_path):
    before = contents(house.place)
    found = erasediff.compare(house.plan, output_dir=tmp_path / "c", quiet=True)
    rows = {(r.label, r.seed): r for r in found.rows}
    theirs, ours = rows["theirs", 1], rows["erasediff", 1]
    assert theirs.kind == ours.kind == "method" and theirs.target == ours.target
    assert theirs.measures.keys() == ours.measures.keys() and theirs.cost["steps"] == 4
    assert {t.rival for t in found.tests} == {"theirs"}
    assert "Made elsewhere and taken as they are: the runs of theirs." in found.notes
    audit = tmp_path / "c" / "runs" / "class-1" / "theirs" / "1" / "audit"
    assert (audit / "audit.json").is_file() and (audit / "report.html").is_file()
    assert before and contents(house.place) == before

    made = (audit / "audit.json").stat().st_mtime_ns
    erasediff.compare(house.plan, output_dir=tmp_path / "c", quiet=True)
    assert (audit / "audit.json").stat().st_mtime_ns == made


def test_an_audit_of_weights_that_changed_is_made_anew(house, tmp_path):
    plan = copied(house, tmp_path / "theirs")
    erasediff.compare(plan, output_dir=tmp_path / "c", quiet=True)
    audit = tmp_path / "c" / "runs" / "class-1" / "theirs" / "0" / "audit" / "audit.json"
    made = audit.stat().st_mtime_ns
    (weights,) = (tmp_path / "theirs").rglob("*.safetensors")
    save_file({k: v + 0.01 for k, v in load_file(weights).items()}, weights)
    erasediff.compare(plan, output_dir=tmp_path / "c", quiet=True)
    assert audit.stat().st_mtime_ns != made


def test_one_that_diverged_keeps_its_row(house, tmp_path):
    stopped = {"reason": "diverged", "detail": "a loss is not finite"}
    plan = copied(house, tmp_path / "theirs", status="diverged", stopped=stopped)
    found = erasediff.compare(plan, output_dir=tmp_path / "c", quiet=True)
    (row,) = [r for r in found.rows if r.label == "theirs"]
    assert row.status == "diverged" and row.detail == "a loss is not finite" and not row.measures

    plan = copied(house, tmp_path / "broken")
    (weights,) = (tmp_path / "broken").rglob("*.safetensors")
    save_file({k: torch.full_like(v, torch.nan) for k, v in load_file(weights).items()}, weights)
    found = erasediff.compare(plan, output_dir=tmp_path / "d", quiet=True)
    (row,) = [r for r in found.rows if r.label == "theirs"]
    assert row.status == "diverged" and "not finite" in row.detail


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "running"}, "is not at its end"),
        ({"target": ["class:2"]}, "erased class:2, where the plan has class:1"),
        ({"target": []}, "erased none, where the plan has class:1"),
        ({"seed": 3}, "has the seed 3, where the plan has 0"),
        ({"base_model": {"sha256": {"model": "0" * 64}}}, "began from another base model"),
        ({"data": {"sha256": "0" * 64}}, "was made from other data"),
    ],
)
def test_one_that_cannot_be_compared_is_refused_before_anything_runs(house, tmp_path, changes, said):
    plan = copied(house, tmp_path / "theirs", **changes)
    with pytest.raises(BadInput, match=said):
        erasediff.compare(plan, output_dir=tmp_path / "c", quiet=True)
    assert not (tmp_path / "c").exists()


def test_one_that_is_not_there_or_named_twice_is_refused(house, tmp_path):
    plan = {**house.plan, "runs": {"theirs": {"class:1": {0: str(tmp_path / "nothing")}}}}
    with pytest.raises(BadInput, match="is no run directory"):
        erasediff.compare(plan, output_dir=tmp_path / "c", quiet=True)
    one = str(house.place / "theirs-0")
    plan = {**house.plan, "runs": {"theirs": {"class:1": {0: one}}, "again": {"class:1": {0: one}}}}
    with pytest.raises(BadInput, match="is named twice"):
        erasediff.compare(plan, output_dir=tmp_path / "c", quiet=True)
