"""The re-creation of the released code: what its inner loop does to the weights, and what its steps count."""

from __future__ import annotations

import json

import pytest
import torch

from erasediff import families
from erasediff.api.audit import audit
from erasediff.api.directory import read_run
from erasediff.api.entries import cost_of, read
from erasediff.data import targets
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY

FOLDER = "experiments/released_code"


@pytest.fixture
def loop(script):
    return script(FOLDER, "loop")


def begun(loop, squares, kind="unet2d", **fields):
    split = targets.split([targets.Class(1)], squares)
    return loop.released(TINY[kind](), squares, split, loop.Settings(**{"batch_size": 8, "epochs": 1} | fields))


def weights(run):
    """Raw and averaged weights after all steps."""
    for _ in run:
        pass
    return [p.detach().clone() for p in run.parameters] + run.average


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["unet2d", "unet2d-v"])
@pytest.mark.parametrize("switches", [{"multiplier": 0.1}, {"adaptive": True}, {"frozen_teacher": True}])
def test_an_inner_loop_that_is_undone_changes_nothing(loop, squares, kind, switches):
    none = weights(begun(loop, squares, kind, inner_steps=0, **switches))
    for passes in (2, 8):
        restored = begun(loop, squares, kind, inner_steps=passes, restore_optimizer=True, **switches)
        assert equal(weights(restored), none)
        assert restored.number > restored.outer


def test_without_the_inner_loop_restoring_has_nothing_to_do(loop, squares):
    plain, restored = (begun(loop, squares, inner_steps=0, restore_optimizer=on) for on in (False, True))
    assert equal(weights(plain), weights(restored))


def test_the_inner_loop_pollutes_adam(loop, squares):
    """Weights are put back in both; what differs is what Adam and the random stream went through."""
    polluted, restored = (begun(loop, squares, restore_optimizer=on) for on in (False, True))
    assert not equal(weights(polluted), weights(restored))
    state = polluted.optimizer.state[polluted.parameters[0]]
    assert int(state["step"]) == polluted.number > polluted.outer
    assert int(restored.optimizer.state[restored.parameters[0]]["step"]) == restored.outer


def test_pollution_is_adams_own_and_not_only_the_other_noise(loop, squares):
    def first_outer(forget_adam):
        run = begun(loop, squares)
        while run.number < run.planned[0] // 2:
            next(run)
        run.source.manual_seed(1)
        if forget_adam:
            run.optimizer.state.clear()
        step = next(run)
        assert step.kind == "outer"
        return [p.detach().clone() for p in run.parameters]

    assert not equal(first_outer(True), first_outer(False))


def test_the_inner_loop_puts_the_weights_back(loop, squares):
    run = begun(loop, squares, learning_rate=1e-2)
    before = [p.detach().clone() for p in run.parameters]
    held, put, seen = run._put, [], []

    def watched(given):
        held(given)
        put.append([p.detach().clone() for p in run.parameters])

    run._put = watched
    for step in run:
        if step.kind == "outer":
            break
        seen.append([p.detach().clone() for p in run.parameters])
    assert not equal(seen[-1], before)
    assert equal(put[0], before)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_constant_that_is_subtracted_reaches_no_gradient(loop, squares, adaptive):
    found = []
    for value in (0.0, 0.3, 7.0):
        run = begun(loop, squares, adaptive=adaptive)
        (step,) = list(run._outer(torch.tensor(value), 1))
        assert float(step.log["value"]) == pytest.approx(value)
        found.append([p.detach().clone() for p in run.parameters])
    assert equal(found[0], found[1])
    assert equal(found[0], found[2])


def test_the_constant_is_the_mean_along_the_last_inner_pass(loop, squares):
    inner = []
    for step in begun(loop, squares, inner_steps=3):
        if step.kind == "outer":
            break
        inner.append(step.log["forget_loss"])
    last = torch.stack(inner[len(inner) * 2 // 3 :]).mean()
    assert float(step.log["value"]) == float(last)


@pytest.mark.parametrize("per_sample", [False, True])
def test_one_other_class_for_a_batch_or_one_for_each_sample(loop, squares, per_sample, monkeypatch):
    run = begun(loop, squares, "unet2d", batch_size=16, relabel_per_sample=per_sample, condition_drop=0.0)
    given, ask = [], run.model.ask

    def watched(denoiser, x_t, t, condition):
        if not torch.is_grad_enabled():
            given.append(condition)
        return ask(denoiser, x_t, t, condition)

    monkeypatch.setattr(run.model, "ask", watched)
    for _ in range(40):
        run.forget_loss(run.split.forget)
    drawn = {int(c) for batch in given for c in batch}
    assert drawn == {0, 2, 3}
    assert len({int(b[0]) for b in given}) > 1
    assert (max(len(set(b.tolist())) for b in given) > 1) is per_sample


@pytest.mark.parametrize("frozen", [False, True])
def test_the_teacher_moves_unless_it_is_frozen(loop, squares, frozen):
    run = begun(loop, squares, frozen_teacher=frozen, learning_rate=1e-2)
    before = [p.detach().clone() for p in run.teacher.parameters()]
    next(run)
    assert equal(before, run.teacher.parameters()) is frozen


def test_the_adaptive_multiplier_is_eta_less_the_cosine(loop, squares):
    run = begun(loop, squares, adaptive=True, eta=0.5)
    kept = next(run._batches(run.split.retain))
    flat, state = [], run.source.get_state()
    for loss in (run.retain_loss(kept), run.forget_loss(run.split.forget)):
        loss.backward()
        flat.append(torch.cat([p.grad.flatten() for p in run.parameters]).double())
        for p in run.parameters:
            p.grad = None
    run.source.set_state(state)
    factor = run._adaptive(run.retain_loss(kept), run.forget_loss(run.split.forget))
    cosine = torch.nn.functional.cosine_similarity(*flat, dim=0)
    assert float(factor) == pytest.approx(max(0.0, 0.5 - float(cosine)), rel=1e-5)


def test_step_counts_are_those_of_the_description(loop):
    assert loop.Settings().planned(5000, 45000, 10) == (640, 288)
    assert loop.Settings(epochs=13, batch_size=16).planned(178, 1619, 10) == (624, 286)


@pytest.mark.parametrize("adaptive", [False, True])
def test_steps_and_forwards_are_counted(loop, squares, adaptive):
    run = begun(loop, squares, adaptive=adaptive)
    steps = list(run)
    kinds = [s.kind for s in steps]
    assert (kinds.count("inner"), kinds.count("outer")) == run.planned == (8, 4)
    assert [s.number for s in steps] == list(range(1, 13))
    assert steps[-1].outer == 4
    forget = len(run.split.forget)
    sizes = [min(8, forget - 8 * (i % 2)) for i in range(2)]
    outer = sum((5.0 if adaptive else 3.0) * 8 + (6.0 if adaptive else 4.0) * size for size in sizes)
    assert run.spent == 2 * (2 * 4 * forget + outer)


def test_the_average_is_plain_and_can_be_asked_between_steps(loop, squares):
    run, undisturbed = (begun(loop, squares, ema_decay=0.5) for _ in range(2))
    expected = [p.detach().clone() for p in run.parameters]
    for step in run:
        raw = [p.detach().clone() for p in run.parameters]
        if step.kind == "outer":
            expected = [e.lerp(p, 0.5) for e, p in zip(expected, raw, strict=True)]
        with run.averaged() as denoiser:
            assert equal(denoiser.parameters(), expected)
        assert equal(run.parameters, raw)
    assert equal([*run.parameters, *run.average], weights(undisturbed))


def test_what_it_cannot_forget_is_refused(loop, squares, tmp_path):
    (tmp_path / "list.txt").write_text("1\n5\n")
    split = targets.split([targets.parse(f"samples:{tmp_path / 'list.txt'}")], squares)
    with pytest.raises(BadInput, match="whole classes"):
        loop.released(TINY["unet2d"](), squares, split)
    with pytest.raises(BadInput, match="whole classes"):
        loop.released(
            TINY["unet2d-unconditional"](), squares, targets.split([targets.Class(1)], squares), loop.Settings()
        )
    with pytest.raises(BadInput, match="inner_steps"):
        loop.Settings(inner_steps=-1)


def command(script, squares, place, *flags):
    """What the command line makes of ``flags``: its exit code."""
    import numpy as np

    run = script(FOLDER, "run")
    TINY["unet2d"]().save(place / "base")
    np.savez(place / "squares.npz", images=squares.images[:, 0].numpy(), labels=squares.labels.numpy())
    common = ["--target", "class:1", "--data", str(place / "squares.npz"), "--output_dir", str(place / "run")]
    return run.main([str(place / "base"), *common, "--batch_size", "8", "--epochs", "1", "--quiet", *flags])


def test_its_run_is_read_and_audited_like_any_other(script, squares, tmp_path, small_audit, capsys):
    assert command(script, squares, tmp_path, "--restore_optimizer", "--seed", "3") == 0
    assert "4 outer of 12 optimiser steps" in capsys.readouterr().out
    directory, record = read_run(tmp_path / "run")
    assert (record["kind"], record["status"], record["target"]) == ("erase", "completed", ["class:1"])
    assert record["method"]["name"] == "released_code"
    assert record["method"]["fields"]["restore_optimizer"] is True
    assert record["seed"] == record["training"]["seed"] == 3
    assert record["base_model"]["sha256"]
    assert cost_of(directory.path, record) | {"steps": 4.0} == cost_of(directory.path, record)
    lines = [json.loads(line) for line in directory.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert families.load(tmp_path / "run").conditions.num_classes == 4
    audit(tmp_path / "run", base=tmp_path / "base", output_dir=tmp_path / "run" / "audit", quiet=True)
    row = read(tmp_path / "run").row("released_code")
    assert row.status == "completed"
    assert "forget_rate" in row.measures


def test_a_run_that_diverges_says_so(script, squares, tmp_path, capsys):
    assert command(script, squares, tmp_path, "--learning_rate", "1e30") == 4
    assert "is not finite" in capsys.readouterr().err
    assert read(tmp_path / "run").row("released_code").status == "diverged"
    assert not (tmp_path / "run" / "model").exists()


def test_an_occupied_directory_and_an_unknown_flag_are_refused(script, squares, tmp_path, capsys):
    assert command(script, squares, tmp_path, "--inner_step", "1") == 2
    assert "did you mean --inner_steps" in capsys.readouterr().err
    assert command(script, squares, tmp_path) == 0
    assert command(script, squares, tmp_path) == 2
    assert "already holds a run" in capsys.readouterr().err
