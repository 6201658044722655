"""The loop: lean (nothing waits for the device), averaged as promised, scheduled as asked."""

import json
from dataclasses import replace

import pytest
import torch

from erasediff.data.pairs import Pairs
from erasediff.families import tiny
from erasediff.methods import METHODS
from erasediff.training.config import SCHEDULES, TrainingConfig
from erasediff.training.ema import Average
from erasediff.training.fit import fit
from erasediff.training.loop import start, take_step, train
from erasediff.training.schedule import learning_rate

CONFIG = TrainingConfig(max_train_steps=6, train_batch_size=4, checkpointing_steps=0)


def session(squares, method="erasediff", **changes):
    model = tiny.unet2d()
    model.conditions = replace(model.conditions, excluded=(1,))
    pairs = Pairs(squares, torch.arange(40), torch.arange(40, 60), batch_size=4, seed=0)
    return start(model, METHODS[method](), pairs, replace(CONFIG, **changes))


@pytest.mark.parametrize("method", ["erasediff", "fine_tune", "grad_diff"])
def test_a_step_never_waits_for_the_device(squares, method, monkeypatch):
    """On an accelerator each of these would stall the queue; the log is read every few steps, in one transfer."""
    s = session(squares, method)
    take_step(s)

    def waits(*_, **__):
        raise AssertionError("a step waited for the device")

    for name in ("item", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, waits)
    step = take_step(s)
    monkeypatch.undo()
    assert isinstance(step.log["retain_loss"], torch.Tensor)


def test_the_loop_is_an_iterator_for_loops_of_your_own(squares):
    steps = [s.number for s in train(session(squares))]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_run_tells_its_method_how_far_it_is(squares):
    s = session(squares, max_train_steps=4)
    assert [s.context.progress for _ in train(s)] == [0.0, 0.25, 0.5, 0.75]


def test_the_average_is_the_slow_obvious_one():
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    average = Average({"w": weight}, decay=0.9)
    slow = weight.detach().clone()
    for n in range(1, 200):
        with torch.no_grad():
            weight.copy_(torch.full((3,), float(n)))
        average.step()
        # EMAModel counts from 0 and lets its first step copy; capped by the steps done, so short runs do not lag.
        decay = 0.0 if n == 1 else min(0.9, n / (n + 9))
        slow = decay * slow + (1 - decay) * weight.detach()
        assert torch.allclose(average.tensors()["w"], slow)
    with average.in_place():
        assert torch.allclose(weight.detach(), slow)
    assert weight[0] == 199


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_functions_of_the_step(name):
    config = TrainingConfig(lr_scheduler=name, lr_warmup_steps=10, max_train_steps=100, learning_rate=2.0)
    rate = learning_rate(config)
    forward = [rate(s) for s in range(100)]
    assert [rate(s) for s in reversed(range(100))][::-1] == forward
    assert max(forward) == pytest.approx(2.0)
    if name != "constant":
        assert forward[0] < forward[5] < forward[9]
    if name in ("linear", "cosine"):
        assert forward[99] < 0.1


def test_a_step_that_overflows_half_precision_is_skipped_and_no_end(squares):
    s = session(squares, mixed_precision="fp16", use_ema=False)
    s.context.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = [p.detach().clone() for p in s.trained.values()]
    step = take_step(s)
    assert step.log["skipped"] == 1.0 and s.context.scaler.get_scale() == 2.0**59
    assert all(torch.equal(p, b) for p, b in zip(s.trained.values(), before, strict=True))
    assert s.context.moments().steps == 0
    s.context.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    found = fit(s)
    assert found.stop.reason == "max_train_steps" and s.context.moments().steps == 5
    assert all("skipped" not in record for record in found.history)


def test_a_skipped_step_is_told_without_what_is_not_finite(squares):
    s = session(squares, mixed_precision="fp16")
    s.context.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    history = fit(s).history
    assert [record["step"] for record in history] == [1, 2, 3, 4, 5, 6]
    assert history[0]["skipped"] == 1.0 and "grad_norm" not in history[0]
    json.dumps(history, allow_nan=False)


def test_clipping_bounds_the_step(squares):
    s = session(squares, max_grad_norm=1e-9, learning_rate=1.0, adam_epsilon=1.0, use_ema=False)
    before = {n: p.detach().clone() for n, p in s.trained.items()}
    step = take_step(s)
    assert step.log["grad_norm"] > 1e-3  # what is logged is the norm before clipping
    moved = torch.cat([(p.detach() - before[n]).flatten() for n, p in s.trained.items()]).norm()
    assert moved < 1e-8
