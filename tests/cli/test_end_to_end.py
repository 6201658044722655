"""train, erase, audit, compare, purge through the command line, in a temporary folder; and every bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tests.conftest import make_squares

from erasediff.cli.main import main

SMALL = ["--train_batch_size", "8", "--quiet", "--seed", "3"]
TINY_MODEL = ["--block_out_channels", "8", "8", "--num_train_timesteps", "50"]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A folder with data, a base run and an erased run."""
    place = tmp_path_factory.mktemp("house")
    squares = make_squares()
    np.savez(place / "data.npz", images=squares.images[:, 0].numpy(), labels=squares.labels.numpy())
    data = str(place / "data.npz")
    trained = ["train", "--data", data, *TINY_MODEL, *SMALL, "--max_train_steps", "20"]
    assert main([*trained, "--output_dir", str(place / "base")]) == 0
    assert main([*trained, "--output_dir", str(place / "retrained"), "--exclude", "class:1"]) == 0
    erased = ["erase", str(place / "base"), "--target", "class:1", *SMALL, "--max_train_steps", "10"]
    assert main([*erased, "--output_dir", str(place / "erased"), "--checkpointing_steps", "5"]) == 0
    return place


def test_erase_takes_its_data_from_the_base_run(house):
    record = json.loads((house / "erased" / "run.json").read_text())
    assert record["data"]["spec"] == str(house / "data.npz")
    assert record["target"] == ["class:1"]


@pytest.mark.slow
def test_audit_compare_export_and_purge(house, tmp_path, capsys, small_audit):
    audit = ["audit", str(house / "erased"), "--base", str(house / "base"), "--retrained", str(house / "retrained")]
    audit += ["--output_dir", str(tmp_path / "audit"), "--quiet"]
    assert main(audit) == 0
    assert main([*audit, "--overwrite", "--require", "forget_rate<=1", "--require", "retain_accuracy>2"]) == 3
    err = capsys.readouterr().err
    assert "retain_accuracy = " in err
    assert "is not > 2" in err
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found["schema"] == 1
    assert found["target"] == "class:1"
    assert found["verdict"]["level"] == "no_verdict"
    assert found["verdict"]["because"]
    names = {(m["name"], m["subject"]) for m in found["measurements"]}
    for name in ("forget_rate", "forget_rate_unconditional", "retain_accuracy", "frechet_distance", "coverage"):
        assert {(name, s) for s in ("erased", "base", "retrained")} <= names
    assert {("relearn_k10", "erased"), ("relearn_k10", "retrained"), ("parameter_change", "erased")} <= names
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "<html" in page
    assert "no verdict" in page.lower()
    # a second audit may use the judge of the first
    again = [*audit[:-2], str(tmp_path / "again"), "--quiet", "--classifier", str(tmp_path / "audit" / "classifier")]
    again[again.index("--output_dir") + 1] = str(tmp_path / "again")
    assert main([a for i, a in enumerate(again) if not (i and again[i - 1] == a)]) == 0
    second = json.loads((tmp_path / "again" / "audit.json").read_text())
    assert second["measurements"] == found["measurements"]

    assert main(["compare", str(tmp_path / "audit"), str(tmp_path / "again"), "--output_dir", str(tmp_path / "c")]) == 0
    assert (tmp_path / "c" / "report.html").exists()
    assert len(json.loads((tmp_path / "c" / "compare.json").read_text())["runs"]) == 2

    shutil.copytree(house / "erased", tmp_path / "erased")
    assert main(["export", str(tmp_path / "erased"), "--to", "full", "--output_dir", str(tmp_path / "full")]) == 0
    assert (tmp_path / "full" / "model_index.json").exists()
    (tmp_path / "erased" / "audit" / "cache").mkdir(parents=True)
    assert main(["purge", str(tmp_path / "erased")]) == 0
    assert not (tmp_path / "erased" / "audit" / "cache").exists()
    assert json.loads((tmp_path / "erased" / "run.json").read_text())["purged"] == ["checkpoints", "audit/cache"]
    assert not (tmp_path / "erased" / "checkpoints").exists()
    assert (tmp_path / "erased" / "model").exists()


def test_dry_run_prints_the_plan_and_writes_nothing(house, tmp_path, capsys):
    argv = ["erase", str(house / "base"), "--target", "class:1", "--output_dir", str(tmp_path / "x"), "--dry_run"]
    assert main(argv) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["status"] == "planned"
    assert plan["plan"]["forget_samples"] > 0
    assert not (tmp_path / "x").exists()


def variant(house, tmp_path, name):
    """A model or data file that is wrong in one way."""
    model = tmp_path / "model"
    shutil.copytree(house / "base" / "model", model)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    if name == "nan":
        tensors = load_file(weights)
        tensors["conv_in.weight"][:] = float("nan")
        save_file(tensors, weights)
    elif name == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif name == "size":
        np.savez(tmp_path / "d.npz", images=np.zeros((20, 16, 16), np.uint8), labels=np.arange(20) % 4)
    elif name == "channels":
        np.savez(tmp_path / "d.npz", images=np.zeros((20, 8, 8, 3), np.uint8), labels=np.arange(20) % 4)
    elif name == "labels":
        np.savez(tmp_path / "d.npz", images=np.zeros((60, 8, 8), np.uint8), labels=np.arange(60) % 6)
    elif name == "unlabelled":
        np.savez(tmp_path / "d.npz", images=np.zeros((60, 8, 8), np.uint8))
    return str(model), str(tmp_path / "d.npz" if (tmp_path / "d.npz").exists() else house / "data.npz")


BAD = [
    ("none", ["--target", "class:9"], "there is no class '9'; classes: 0, 1, 2, 3"),
    (
        "none",
        ["--target", "class:0", "--target", "class:1", "--target", "class:2", "--target", "class:3"],
        "retain set",
    ),
    ("none", ["--target", "clas:1"], "did you mean class"),
    ("none", ["--target", "concept:cats"], "family unet2d takes class:..., samples:... only"),
    ("none", ["--target", "samples:nowhere.txt"], "does not exist"),
    ("none", ["--target", "class:1", "--data", "nowhere.npz"], "nowhere.npz does not exist"),
    ("none", ["--target", "class:1", "--method.forget_target", "relable"], "did you mean relabel"),
    ("none", ["--target", "class:1", "--parameters", "nope.*"], "names no weight"),
    ("none", ["--target", "class:1", "--report_to", "nonsense"], "report_to 'nonsense'"),
    ("none", ["--target", "class:1", "--slack_tolerance", "0.1", "--method", "fine_tune"], "slack_tolerance"),
    ("nan", ["--target", "class:1"], "not finite"),
    ("truncated", ["--target", "class:1"], "cannot be read"),
    ("size", ["--target", "class:1"], "images are 1 x 16 x 16, but this model takes 1 x 8 x 8"),
    ("channels", ["--target", "class:1"], "images are 3 x 8 x 8, but this model takes 1 x 8 x 8"),
    ("labels", ["--target", "class:1"], "labels up to 5, the model's classes are 0 to 3"),
    ("unlabelled", ["--target", "class:1"], "has no labels"),
]


@pytest.mark.parametrize(("name", "flags", "said"), BAD)
def test_bad_input_is_one_line_exit_2_and_nothing_half_written(house, tmp_path, capsys, name, flags, said):
    model, data = variant(house, tmp_path, name)
    given = [] if "--data" in flags else ["--data", data]
    argv = ["erase", model, *given, *flags, "--output_dir", str(tmp_path / "out"), *SMALL, "--max_train_steps", "2"]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert said in err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[-1]]
    assert not (tmp_path / "out").exists()


def test_a_missing_model_and_a_folder_that_is_no_pipeline(tmp_path, capsys):
    for model, said in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "no diffusers pipeline")):
        assert main(["erase", str(model), "--target", "class:1", "--output_dir", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_an_occupied_output_directory_is_refused_and_overwritten_on_request(house, tmp_path, capsys):
    argv = ["erase", str(house / "base"), "--target", "class:1", "--output_dir", str(tmp_path / "o"), *SMALL]
    argv += ["--max_train_steps", "2"]
    assert main(argv) == 0
    assert main(argv) == 2
    assert "--overwrite" in capsys.readouterr().err
    (tmp_path / "o" / "audit").mkdir()
    for name in ("audit/audit.json", "earlier_cost.json"):
        (tmp_path / "o" / name).write_text("{}")
    assert main([*argv, "--overwrite"]) == 0
    left = {p.name for p in (tmp_path / "o").iterdir()}
    assert left.isdisjoint({"audit", "earlier_cost.json"}), "they were of the run before"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("x")
    argv[argv.index("--output_dir") + 1] = str(tmp_path / "full")
    assert main(argv) == 2
    assert "not empty" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    argv[argv.index("--output_dir") + 1] = str(tmp_path / "file")
    assert main(argv) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_run_does_not_take_the_place_of_the_model_it_begins_with(house, tmp_path, capsys):
    base = shutil.copytree(house / "base", tmp_path / "base")
    argv = ["erase", str(base), "--target", "class:1", *SMALL, "--max_train_steps", "2", "--overwrite"]
    for place in (base, base / "model"):
        assert main([*argv, "--output_dir", str(place)]) == 2
        assert "holds the model that the run begins with" in capsys.readouterr().err
    assert (base / "model" / "model_index.json").exists()


def test_a_directory_that_cannot_be_written_is_exit_2(house, capsys):
    place = Path("/proc/erasediff")  # not even root can write here
    argv = ["erase", str(house / "base"), "--target", "class:1", "--output_dir", str(place), *SMALL]
    assert main([*argv, "--max_train_steps", "2"]) == 2
    assert "cannot write in" in capsys.readouterr().err


def test_resuming_without_a_run_is_refused(house, tmp_path, capsys):
    argv = ["erase", str(house / "base"), "--target", "class:1", "--output_dir", str(tmp_path / "o")]
    assert main([*argv, "--resume_from_checkpoint", "latest"]) == 2
    assert "holds no run to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--suite", "quik"], "did you mean quick"),
        (["--features", "inception"], "allowed: classifier, pixels"),
        (["--goal", "x"], "goal 'x' is unknown"),
        (
            ["--mixed_precision", "fp8"],
            "mixed_precision 'fp8' is unknown (did you mean fp16?); allowed: no, bf16, fp16",
        ),
        (["--require", "forget_rate=0"], "--require"),
        (["--target", "class:8"], "there is no class"),
        (["--classifier", "nowhere"], "no classifier in nowhere"),
        (["--base", "nowhere"], "does not exist"),
        (["--guidance_scale", "strong"], "strong"),
    ],
)
def test_bad_audits_are_exit_2(house, tmp_path, capsys, flags, said):
    assert main(["audit", str(house / "erased"), "--output_dir", str(tmp_path / "a"), "--quiet", *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_models_of_other_shapes_are_not_compared(house, tmp_path, capsys):
    from erasediff.families import tiny

    tiny.unet2d(prediction_type="epsilon").save(tmp_path / "same")
    argv = ["audit", str(house / "erased"), "--output_dir", str(tmp_path / "a"), "--quiet"]
    other = tmp_path / "other"
    trained = ["train", "--data", str(house / "data.npz"), "--block_out_channels", "16", "8", *SMALL]
    assert main([*trained, "--max_train_steps", "1", "--output_dir", str(other)]) == 0
    assert main([*argv, "--base", str(other)]) == 2
    assert "other weights" in capsys.readouterr().err


@pytest.mark.slow
def test_sigint_saves_and_prints_the_command_that_resumes(house, tmp_path):
    import shlex
    import signal
    import subprocess
    import sys
    import time

    erase = ["erase", str(house / "base"), "--target", "class:1", "--output_dir", str(tmp_path / "run"), *SMALL]
    erase += ["--max_train_steps", "5000"]
    with subprocess.Popen([sys.executable, "-m", "erasediff", *erase], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.time() + 120
        while not (tmp_path / "run" / "metrics.jsonl").exists() and time.time() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "state saved in" in said
    command = shlex.split(said.splitlines()[-1].removeprefix("resume: "))
    assert command[0] == "erasediff"
    steps = (tmp_path / "run" / "metrics.jsonl").read_text().count("\n")
    last = ["--max_train_steps", str(steps + 2)]
    assert main([a for a in command[1:] if a != "5000" and a != "--max_train_steps"] + last) == 0
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == steps + 2
