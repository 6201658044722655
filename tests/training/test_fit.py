"""A run from outside: records, stops, interrupts, kills, and what each leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from erasediff.api.erase import erase
from erasediff.api.train import train
from erasediff.data.pairs import Pairs
from erasediff.data.targets import Class
from erasediff.errors import BadInput, Interrupted, StoppedShort
from erasediff.families import tiny
from erasediff.methods.erasediff import EraseDiff
from erasediff.methods.fine_tune import FineTune
from erasediff.methods.neg_grad import NegGrad
from erasediff.methods.retrack import ReTrack
from erasediff.training import loop
from erasediff.training.config import TrainingConfig
from erasediff.training.fit import FLUSH, fit
from erasediff.training.loop import start
from erasediff.training.processes import Processes

CONFIG = TrainingConfig(max_train_steps=24, train_batch_size=4, learning_rate=1e-3, checkpointing_steps=0)
WEIGHTS = "model/unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def base(tmp_path):
    tiny.unet2d().save(tmp_path / "base")
    return tmp_path / "base"


def go(base, squares, directory, method=None, **options):
    fields = {k: options.pop(k) for k in list(options) if k in TrainingConfig.__dataclass_fields__}
    return erase(
        base,
        Class(1),
        squares,
        method or EraseDiff(),
        output_dir=directory,
        training=replace(CONFIG, **fields),
        quiet=True,
        **options,
    )


def test_a_run_directory_holds_what_it_should_and_no_pickle(base, squares, tmp_path):
    run = go(base, squares, tmp_path / "run", checkpointing_steps=12)
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {"model", "run.json", "metrics.jsonl", "README.md", "checkpoints"}
    suffixes = {p.suffix for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert suffixes == {".safetensors", ".json", ".jsonl", ".md", ".py"}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 25))
    assert {"retain_loss", "forget_loss", "multiplier", "seconds"} <= set(lines[0])
    assert lines == run.history
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["stopped"]["reason"] == "max_train_steps"
    assert record["seed"] == 0
    assert record["method"]["name"] == "erasediff"
    assert record["versions"]["torch"]
    assert record["weights"]
    assert record["base_model"]["sha256"]


def test_the_model_given_is_not_changed(base, squares, tmp_path):
    before = (base / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    go(base, squares, tmp_path / "run")
    assert (base / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_what_is_saved_is_the_average(base, squares, tmp_path):
    averaged = go(base, squares, tmp_path / "ema", use_ema=True)
    plain = go(base, squares, tmp_path / "plain", use_ema=False)
    a, b = (dict(r.model.denoiser.named_parameters()) for r in (averaged, plain))
    assert not any(torch.equal(a[n], b[n]) for n in a if a[n].numel() > 10)
    start = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    moved = lambda weights: sum((weights[n] - start[n]).square().sum() for n in start)  # noqa: E731
    assert moved(a) < moved(b)


def test_an_interrupt_saves_and_the_resumed_run_is_the_unbroken_one(base, squares, tmp_path, monkeypatch):
    unbroken = go(base, squares, tmp_path / "unbroken")
    real = EraseDiff.direction

    def interrupting(self, ctx, pair, state):
        if ctx.step == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, ctx, pair, state)

    monkeypatch.setattr(EraseDiff, "direction", interrupting)
    with pytest.raises(Interrupted, match="interrupted at step 14; state saved in"):
        go(base, squares, tmp_path / "run")
    monkeypatch.undo()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    resumed = go(base, squares, tmp_path / "run", resume_from_checkpoint="latest")
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (tmp_path / "unbroken" / WEIGHTS).read_bytes()
    assert resumed.history[0]["step"] == 15
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [r["step"] for r in unbroken.history]


def test_a_resume_with_other_settings_is_refused(base, squares, tmp_path):
    go(base, squares, tmp_path / "run", checkpointing_steps=8)
    for change in ({"learning_rate": 1e-2}, {"method": EraseDiff(eta=0.7)}, {"seed": 1}):
        with pytest.raises(BadInput, match="cannot resume"):
            go(base, squares, tmp_path / "run", resume_from_checkpoint="latest", **change)


def test_a_finished_run_goes_on_to_a_later_last_step(base, squares, tmp_path):
    """In the same bits, where nothing depends on the length of the run."""
    method = EraseDiff(retain="blend", eta_end=0.3, retain_focus=0.0)
    go(base, squares, tmp_path / "long", method, max_train_steps=24)
    go(base, squares, tmp_path / "short", method, max_train_steps=12, checkpointing_steps=12)
    go(base, squares, tmp_path / "short", method, max_train_steps=24, resume_from_checkpoint="latest")
    assert (tmp_path / "short" / WEIGHTS).read_bytes() == (tmp_path / "long" / WEIGHTS).read_bytes()


def test_divergence_stops_and_keeps_the_last_good_checkpoint(base, squares, tmp_path):
    class Exploding(NegGrad):
        def direction(self, ctx, pair, state):
            made = super().direction(ctx, pair, state)
            if ctx.step >= 10:
                made.log["forget_loss"] = made.log["forget_loss"] * float("nan")
            return made

    with pytest.raises(StoppedShort, match="diverged: forget_loss is not finite at step 11") as caught:
        go(base, squares, tmp_path / "run", Exploding(), checkpointing_steps=5)
    assert "checkpoint-10" in str(caught.value)
    assert not (tmp_path / "run" / "model").exists()
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-10").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "diverged"


def test_the_retain_budget_stops_short_with_a_model(base, squares, tmp_path):
    with pytest.raises(BadInput, match="neg_grad never looks at the retain set"):
        go(base, squares, tmp_path / "run", NegGrad(), retain_budget=0.05)
    method = EraseDiff(forget_target="noise", eta=50.0, retain="denoise")
    run = go(base, squares, tmp_path / "b", method, learning_rate=0.02, max_train_steps=200, retain_budget=0.01)
    assert run.stopped_short
    assert run.record["stopped"]["reason"] == "retain_budget"
    assert (tmp_path / "b" / WEIGHTS).exists()


def test_the_constraint_stops_the_run(base, squares, tmp_path):
    method = EraseDiff(forget_target="noise", retain="denoise")
    run = go(base, squares, tmp_path / "run", method, max_train_steps=100, slack_tolerance=0.5, learning_rate=3e-3)
    assert run.record["stopped"]["reason"] == "constraint_met"
    assert run.record["steps"] < 100
    assert not run.stopped_short


def test_where_a_rule_ends_a_run_depends_on_the_rule_alone(base, squares, tmp_path):
    method, fields = EraseDiff(forget_target="noise", retain="denoise"), {"max_train_steps": 100, "learning_rate": 3e-3}
    runs = [
        go(base, squares, tmp_path / str(every), method, slack_tolerance=0.5, checkpointing_steps=every, **fields)
        for every in (0, 3)
    ]
    for run in runs:
        lines = (run.directory / "metrics.jsonl").read_text().splitlines()
        assert run.record["steps"] % FLUSH == 0
        assert run.record["steps"] == len(run.history) == len(lines) < 100
    assert runs[0].record["steps"] == runs[1].record["steps"]


def test_methods_with_a_known_floor_stop_on_it_without_being_told_to_measure(base, squares, tmp_path):
    run = go(base, squares, tmp_path / "run", ReTrack(), slack_tolerance=1e-9, max_train_steps=3)
    assert all("slack" in r for r in run.history)


def test_one_of_several_processes_does_not_turn_aside_on_a_signal_of_its_own(squares, monkeypatch):
    pairs, asked, taken = Pairs(squares, torch.arange(40), None, batch_size=4, seed=0), [], loop.take_step
    session = start(tiny.unet2d(), FineTune(), pairs, CONFIG)

    class Two(Processes):
        world = 2

        def agreed(self, value):
            asked.append(session.step)
            return value

    def stepped(given):
        if given.step == 3:
            signal.raise_signal(signal.SIGINT)
        return taken(given)

    monkeypatch.setattr(loop, "take_step", stepped)
    session.context.processes = Two(session.context.processes.accelerator)
    assert fit(session).stop.reason == "interrupted"
    assert asked == [10], "where all of them stop to ask"


def test_stopping_on_the_constraint_turns_the_slack_on(base, squares, tmp_path):
    run = go(base, squares, tmp_path / "run", slack_tolerance=1e-9, max_train_steps=3)
    assert all("slack" in r for r in run.history)


def test_a_constraint_that_cannot_be_measured_is_refused(base, squares, tmp_path):
    with pytest.raises(BadInput, match="slack_tolerance"):
        go(base, squares, tmp_path / "run", FineTune(), slack_tolerance=0.1)
    assert not (tmp_path / "run").exists()


def test_accumulation_equals_one_big_batch(base, squares, tmp_path):
    a = go(base, squares, tmp_path / "a", train_batch_size=8, max_train_steps=3)
    b = go(base, squares, tmp_path / "b", train_batch_size=2, gradient_accumulation_steps=4, max_train_steps=3)
    for x, y in zip(a.history, b.history, strict=True):
        assert x["multiplier"] == pytest.approx(y["multiplier"], rel=1e-4)
        assert x["forget_loss"] == pytest.approx(y["forget_loss"], rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_keeps_fp32_masters_and_agrees(base, squares, tmp_path, precision):
    full = go(base, squares, tmp_path / "a", max_train_steps=5)
    mixed = go(base, squares, tmp_path / "b", max_train_steps=5, mixed_precision=precision)
    assert all(p.dtype == torch.float32 for p in mixed.model.denoiser.parameters())
    assert mixed.history[0]["retain_denoise_loss"] == pytest.approx(full.history[0]["retain_denoise_loss"], rel=0.05)
    assert mixed.history[0] != full.history[0]


@pytest.mark.parametrize("option", ["channels_last", "gradient_checkpointing"])
def test_layout_and_recomputation_change_no_result(base, squares, tmp_path, option):
    plain = go(base, squares, tmp_path / "a", max_train_steps=3)
    other = go(base, squares, tmp_path / "b", max_train_steps=3, **{option: True})
    # The first step alone: Adam turns the rounding of near-zero gradients into steps.
    assert plain.history[0]["forget_loss"] == pytest.approx(other.history[0]["forget_loss"], rel=1e-4)
    assert plain.history[0]["multiplier"] == pytest.approx(other.history[0]["multiplier"], rel=1e-3)


def test_only_the_chosen_parameters_move(base, squares, tmp_path):
    run = go(base, squares, tmp_path / "run", parameters="mid_block.*", max_train_steps=3)
    before = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    moved = {n for n, p in run.model.denoiser.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(n.startswith("mid_block.") for n in moved)
    with pytest.raises(BadInput, match="names no weight"):
        go(base, squares, tmp_path / "x", parameters="nothing.*")
    assert not (tmp_path / "x").exists()


def test_dropout_is_a_function_of_the_step_too(squares, tmp_path):
    from erasediff.families.architecture import Architecture

    common = {
        "architecture": Architecture(block_out_channels=(8, 8), dropout=0.3, num_train_timesteps=20),
        "training": replace(CONFIG, max_train_steps=12, checkpointing_steps=6),
        "quiet": True,
    }
    train(squares, output_dir=tmp_path / "whole", **common)
    train(
        squares,
        output_dir=tmp_path / "part",
        **{**common, "training": replace(CONFIG, max_train_steps=6, checkpointing_steps=6)},
    )
    train(squares, output_dir=tmp_path / "part", resume_from_checkpoint="latest", **common)
    assert (tmp_path / "part" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(base, tmp_path):
    import numpy as np
    from tests.conftest import make_squares

    data = make_squares()
    np.savez(tmp_path / "squares.npz", images=data.images[:, 0].numpy(), labels=data.labels.numpy())
    command = [sys.executable, "-m", "erasediff", "erase", str(base), "--target", "class:1", "--quiet"]
    command += ["--data", str(tmp_path / "squares.npz"), "--max_train_steps", "60", "--train_batch_size", "4"]
    command += ["--checkpointing_steps", "7"]
    killed = [*command, "--output_dir", str(tmp_path / "killed")]
    with subprocess.Popen(killed, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.time() + 120
        while not list((tmp_path / "killed" / "checkpoints").glob("checkpoint-*")) and time.time() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / "model").exists()
    subprocess.run([*killed, "--resume_from_checkpoint", "latest"], check=True, capture_output=True)
    subprocess.run([*command, "--output_dir", str(tmp_path / "whole")], check=True, capture_output=True)
    assert (tmp_path / "killed" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
