"""The plan of a run: what is trained, cached and held; and that what is not trained stays out of the way."""

import json
import sys
from pathlib import Path

import pytest
from tests.api._lora_runs import captioned
from tests.conftest import make_squares
from tests.families import _tiny_text
from tests.methods._miniatures import quick

import erasediff
from erasediff.api.latents import LATENTS
from erasediff.cli.main import main
from erasediff.families import adopt
from erasediff.families.tiny import TINY

FEW = {"max_train_steps": 2, "train_batch_size": 4, "quiet": True}


@pytest.fixture(scope="module")
def pipeline():
    return _tiny_text.stable_diffusion()


def planned(pipeline, **more):
    return erasediff.erase(pipeline, "class:a cat", captioned(), dry_run=True, **FEW, **more).record["plan"]


def test_the_plan_counts_what_is_trained(pipeline):
    full, lora = planned(pipeline), planned(pipeline, rank=2)
    whole = sum(p.numel() for p in pipeline.unet.parameters())
    assert full["trained"] == {"parameters": "full", "weights": whole, "of": whole, "bytes": 4 * whole}
    assert lora["trained"]["parameters"] == "attention" and lora["trained"]["rank"] == 2
    run = erasediff.erase(pipeline, "class:a cat", captioned(), rank=2, **FEW)
    assert lora["trained"]["layers"] == len(run.lora.layers)
    assert lora["trained"]["weights"] == sum(a.numel() + b.numel() for a, b in run.lora.tensors.values())


def test_the_plan_counts_steps_and_forwards(pipeline):
    plan = planned(pipeline)
    assert plan["steps"] == 2
    assert plan["forward_equivalents"] == 2 * plan["forward_equivalents_per_step"]


@pytest.mark.parametrize("rank", [None, 2])
def test_what_is_cached_and_the_run_says_the_same(pipeline, tmp_path, rank):
    run = erasediff.erase(pipeline, "class:a cat", captioned(), output_dir=tmp_path / "run", rank=rank, **FEW)
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    assert plan["memory"] == planned(pipeline, rank=rank)["memory"]
    stored = (tmp_path / "run" / LATENTS / "latents.npy").stat().st_size
    assert 0 <= stored - plan["cached"]["latents_bytes"] <= 128  # numpy's header
    table = run.model.table.embeddings.values()
    assert plan["cached"]["text_bytes"] == plan["memory"]["text"] == sum(t.numel() * t.element_size() for t in table)


def test_in_pixels_nothing_is_cached():
    pipeline = TINY["unet2d"]().pipeline()
    plan = erasediff.erase(pipeline, "class:1", make_squares(), dry_run=True, **FEW).record["plan"]
    assert plan["cached"] == {"images": 0, "latents_bytes": 0, "text_bytes": 0}
    assert plan["memory"]["batch"] == 2 * 4 * 64 * 4


def test_a_dry_run_prints_it(pipeline, tmp_path, capsys):
    adopt(TINY["unet2d"](classes=10).pipeline()).save(tmp_path / "base")
    line = ["erase", str(tmp_path / "base"), "--target", "class:1", "--data", "digits", "--dry_run", "--rank", "2"]
    assert main([*line, "--quantize", "int8", "--output_dir", str(tmp_path / "run")]) == 0
    memory = json.loads(capsys.readouterr().out)["plan"]["memory"]
    assert memory["frozen_copy"] == 0 < memory["denoiser"] < memory["total"]
    assert not (tmp_path / "run").exists()


def test_without_a_rank_the_command_line_refuses_it(tmp_path, capsys):
    adopt(TINY["unet2d"]().pipeline()).save(tmp_path / "base")
    line = ["erase", str(tmp_path / "base"), "--target", "class:1", "--data", "digits", "--quantize", "int8"]
    assert main([*line, "--output_dir", str(tmp_path / "run")]) == 2
    assert "give a rank as well" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def watched(monkeypatch):
    """From the first step on, whoever asks or moves what is not trained is caught."""
    launch, caught = sys.modules["erasediff.api.launch"], []
    start = launch.start

    def catching(what):
        # Another order in memory is no other device.
        return lambda *given, **options: caught.append(what) if given or set(options) != {"memory_format"} else None

    def starting(model, *given, **options):
        session = start(model, *given, **options)
        parts = {n: p for n, p in getattr(model, "parts", {"vae": model.latents.vae}).items() if hasattr(p, "to")}
        for name, part in parts.items():
            for verb in ("to", "forward", "encode", "decode"):
                if hasattr(part, verb):
                    monkeypatch.setattr(part, verb, catching(f"{name}.{verb}"), raising=False)
        caught.append("begun")
        return session

    monkeypatch.setattr(launch, "start", starting)
    return caught


@pytest.mark.parametrize("method", ["erasediff", "esd"])
@pytest.mark.parametrize("rank", [None, 2])
def test_text_encoders_and_autoencoder_are_neither_moved_nor_asked_once_it_trains(method, rank, tmp_path, monkeypatch):
    caught = watched(monkeypatch)
    fields = {**FEW, "rank": rank, "output_dir": tmp_path / "run"}
    erasediff.erase(_tiny_text.stable_diffusion(), "class:a cat", captioned(), quick(method), **fields)
    assert caught == ["begun"]
    assert (tmp_path / "run" / ("model" if rank is None else "lora")).is_dir()


def test_the_autoencoder_of_dit_neither(tmp_path, monkeypatch):
    caught = watched(monkeypatch)
    erasediff.erase(TINY["dit"]().pipeline(), "class:1", make_squares(), output_dir=tmp_path / "run", **FEW)
    assert caught == ["begun"]


def test_what_is_saved_by_a_resting_pipeline_is_whole(tmp_path):
    run = erasediff.erase(TINY["dit"]().pipeline(), "class:1", make_squares(), output_dir=tmp_path / "run", **FEW)
    assert {p.name for p in Path(run.output).iterdir()} >= {"vae", "transformer", "scheduler", "model_index.json"}
