"""Selective Amnesia: the Fisher matrix is that of the samples, its pull holds, and replay never shows the forgotten."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from erasediff.data.images import as_floats
from erasediff.data.pairs import Pairs
from erasediff.data.targets import Class, Samples, split
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.methods.objectives import Denoise
from erasediff.methods.selective_amnesia import SelectiveAmnesia, Surrogate, _replayed
from erasediff.solver.fisher import ewc_penalty
from erasediff.training import checkpoint
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import snapshot, start, take_step

SMALL = {"fisher_samples": 12, "fisher_timesteps": 2, "replay_samples": 10, "replay_steps": 2}


def session(squares, *, model=None, target=None, saved=None, config=None, **fields):
    model = model or TINY["unet2d"]()
    divided = split([target or Class(1)], squares)
    model.conditions = replace(model.conditions, excluded=divided.classes)
    pairs = Pairs(squares, divided.retain, divided.forget, batch_size=8, seed=0)
    config = config or TrainingConfig(train_batch_size=8, use_ema=False, learning_rate=1e-3, lr_warmup_steps=0)
    return start(model, SelectiveAmnesia(**{**SMALL, **fields}), pairs, config, checkpoint=saved)


def listed(state, name):
    return [state[f"{name}.{i}"] for i in range(sum(k.startswith(f"{name}.") for k in state))]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def close(found, expected):
    for a, b in zip(found, expected, strict=True):
        # A bias before a normalisation has no gradient in exact arithmetic: what is left is noise, whose square counts.
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-9), (a - b).abs().max()


def slow_squares(context, objective, batch):
    """The obvious loop: one sample, one backward, one square."""
    total = [torch.zeros_like(p) for p in context.trained]
    for row in batch.split(1):
        objective(context, row).loss.sum().backward()
        for t, p in zip(total, context.trained, strict=True):
            t += 0 if p.grad is None else p.grad**2
            p.grad = None
    return [t / len(batch) for t in total]


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.parametrize("micro_batch", [8, 3, 1])
def test_squared_gradients_are_those_of_the_slow_loop(family, micro_batch, squares):
    from erasediff.methods.fine_tune import FineTune

    divided = split([Class(1)], squares)
    pairs = Pairs(squares, divided.retain, divided.forget, batch_size=8, seed=0)
    context = start(TINY[family](), FineTune(), pairs, TrainingConfig(train_batch_size=micro_batch)).context
    batch, objective = pairs.at(0).retain, Denoise(0.5)
    expected = slow_squares(context, objective, batch)
    context.spent = 0.0
    close(context.squared_gradients(objective, batch), expected)
    assert context.spent == 3 * len(batch)
    assert all(p.grad is None for p in context.trained)
    # The mean of the squares is not the square of the mean, and what is asked afterwards has a graph of its own again.
    (term,) = context.gradients((objective, batch))
    assert sum(float(e.sum()) for e in expected) > 1.2 * sum(float((g**2).sum()) for g in term.gradients)


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"mixed_precision": "bf16"}])
def test_squared_gradients_do_not_depend_on_how_memory_is_saved(changes, squares):
    plain = session(squares)
    config = TrainingConfig(train_batch_size=8, use_ema=False, **changes)
    other = session(squares, config=config, replay="data")
    batch = plain.pairs.at(0).retain
    close(
        other.context.squared_gradients(Denoise(0.0), batch),
        plain.context.squared_gradients(Denoise(0.0), batch),
    )
    checkpointed = any(getattr(m, "gradient_checkpointing", False) for m in other.model.denoiser.modules())
    assert checkpointed == bool(changes.get("gradient_checkpointing"))


@pytest.mark.parametrize("replay", ["generated", "data"])
def test_the_fisher_matrix_is_the_mean_over_samples_of_all_classes_and_time_steps(replay, squares):
    s = session(squares, replay=replay)
    batch = s.method._fisher_batch(s.context, s.pairs)
    assert len(batch) == batch.total == 12
    assert set(batch.labels.tolist()) == {0, 1, 2, 3}
    parts = [slow_squares(s.context, Denoise(0.1), replace(batch, role=f"fisher/{k}")) for k in range(2)]
    close(listed(s.state, "fisher"), [(a + b) / 2 for a, b in zip(*parts, strict=True)])


def test_processes_share_the_fisher_samples_evenly(squares):
    s = session(squares, replay="data", fisher_samples=11)
    shares = []
    for rank in range(2):
        s.pairs.rank, s.pairs.world = rank, 2
        shares.append(s.method._fisher_batch(s.context, s.pairs))
    assert [len(b) for b in shares] == [6, 6]
    assert [(b.start, b.total) for b in shares] == [(0, 12), (6, 12)]
    assert len(set(torch.cat([b.index for b in shares]).tolist())) == 12


def moved(squares, weight):
    """How far six steps lead from theta*, in the metric of one and the same Fisher matrix, and plainly."""
    s = session(squares, ewc_weight=weight)
    for _ in range(6):
        take_step(s)
    weights, anchor = s.context.weights(), listed(s.state, "anchor")
    plain = sum(float((w - a).square().sum()) for w, a in zip(weights, anchor, strict=True))
    return float(ewc_penalty(listed(s.state, "fisher"), weights, anchor)), plain


def test_a_heavy_weight_holds_the_weights_near_the_anchor(squares):
    free, plain = moved(squares, 0.0)
    held, _ = moved(squares, 1e8)
    assert plain > 0
    assert held < 0.5 * free


def test_the_direction_is_the_sum_of_its_three_gradients(squares):
    s = session(squares, ewc_weight=3.0)
    take_step(s)
    s.context.begin(1)
    pair = s.pairs.at(1)
    replayed = _replayed(s.context, pair.retain, s.state)
    forget, retain = s.context.gradients((Surrogate(), pair.forget), (Denoise(0.1), replayed))
    direction = s.method.direction(s.context, pair, s.state)
    fisher, anchor = listed(s.state, "fisher"), listed(s.state, "anchor")
    rows = zip(
        direction.gradients, forget.gradients, retain.gradients, fisher, s.context.weights(), anchor, strict=True
    )
    for d, f, r, precision, w, a in rows:
        assert torch.allclose(d, f + r + 3.0 * precision * (w - a), rtol=1e-4, atol=1e-7)
    assert direction.log["ewc_penalty"] > 0


def test_the_surrogate_is_uniform_noise_under_the_forgotten_class(squares, monkeypatch):
    s = session(squares)
    seen = []
    noised = s.context.noised
    monkeypatch.setattr(s.context, "noised", lambda batch, **given: seen.append(batch) or noised(batch, **given))
    asked = []
    predict = s.context.predict
    monkeypatch.setattr(s.context, "predict", lambda n, c, **given: asked.append(c) or predict(n, c, **given))
    for step in range(20):
        s.context.begin(step)
        s.context.gradients((Surrogate(), s.pairs.at(step).forget))
    images = torch.stack([b.images for b in seen])
    values, _ = images.flatten().sort()
    # Kolmogorov and Smirnov: sqrt(n) times the largest gap exceeds 1.95 once in a thousand.
    gap = ((values + 1) / 2 - torch.linspace(0, 1, len(values))).abs().max()
    assert len(values) ** 0.5 * gap < 1.95
    assert -1 <= values[0] < -0.99
    assert 0.99 < values[-1] <= 1
    assert len({image.numpy().tobytes() for step in images for image in step}) == 20 * 8
    assert set(torch.cat(asked).tolist()) == {1}


def test_replay_shows_the_classes_that_remain_and_no_other(squares):
    s = session(squares)
    images, labels = s.state["replay.images"], s.state["replay.labels"]
    assert images.dtype == torch.uint8
    assert tuple(images.shape) == (10, 1, 8, 8)
    assert set(labels.tolist()) == {0, 2, 3}
    drawn = set()
    for step in range(10):
        s.context.begin(step)
        batch = _replayed(s.context, s.pairs.at(step).retain, s.state)
        assert len(batch) == 8
        assert torch.equal(batch.images, as_floats(images[batch.index]))
        assert torch.equal(batch.labels, labels[batch.index])
        drawn |= set(batch.index.tolist())
    assert drawn == set(range(10))


def test_replay_can_be_the_retain_set_itself(squares):
    s = session(squares, replay="data")
    assert s.context.teacher is None
    assert not any(k.startswith("replay.") for k in s.state)
    retain = s.pairs.at(0).retain
    assert _replayed(s.context, retain, s.state) is retain


def test_a_fisher_file_serves_the_same_weights_whatever_is_forgotten(squares, tmp_path):
    file = tmp_path / "fisher.safetensors"
    first = session(squares, fisher_file=str(file))
    written = file.read_bytes()
    again = session(squares, fisher_file=str(file), target=Class(2), fisher_samples=1)
    assert same(listed(first.state, "fisher"), listed(again.state, "fisher"))
    assert file.read_bytes() == written
    assert same(listed(first.state, "fisher"), listed(session(squares).state, "fisher"))
    file.write_bytes(bytes(len(written)))
    assert same(listed(first.state, "fisher"), listed(again.state, "fisher")), "still tied to the file"
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_a_fisher_file_of_another_model_is_refused(squares, tmp_path):
    file = tmp_path / "fisher.safetensors"
    session(squares, fisher_file=str(file))
    with pytest.raises(BadInput, match=r"Fisher file of another model: .*delete the file"):
        session(squares, fisher_file=str(file), model=TINY["unet2d"](seed=1))
    few = TrainingConfig(train_batch_size=8, use_ema=False, parameters="attention")
    with pytest.raises(BadInput, match="Fisher file of another model"):
        session(squares, fisher_file=str(file), config=few)


def test_a_broken_fisher_file_is_refused(squares, tmp_path):
    from safetensors import safe_open

    file = tmp_path / "fisher.safetensors"
    session(squares, fisher_file=str(file))
    with safe_open(file, framework="pt") as opened:
        said, tensors = opened.metadata(), {k: opened.get_tensor(k).clone() for k in opened.keys()}  # noqa: SIM118
    whole = file.read_bytes()
    name = next(iter(tensors))
    cases = {
        "cannot be read as safetensors": [whole[: len(whole) // 2], b"not safetensors", b""],
        "of another model": [({}, tensors)],
        "damaged": [
            (said, {k: v for k, v in tensors.items() if k != name}),
            (said, {**tensors, name: tensors[name] * float("nan")}),
            (said, {**tensors, name: tensors[name] - 1}),
        ],
    }
    for message, contents in cases.items():
        for content in contents:
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                save_file(content[1], file, metadata=content[0])
            with pytest.raises(BadInput, match=message):
                session(squares, fisher_file=str(file))
    with pytest.raises(BadInput, match="cannot be read as safetensors"):
        session(squares, fisher_file=str(tmp_path))
    with pytest.raises(BadInput, match="no directory; create it first"):
        session(squares, fisher_file=str(tmp_path / "nowhere" / "fisher.safetensors"))


def test_its_state_comes_back_from_disk_bit_by_bit(squares, tmp_path):
    s = session(squares)
    take_step(s)
    checkpoint.save(tmp_path, snapshot(s), limit=1)
    resumed = session(squares, saved=checkpoint.find(tmp_path, "latest"))
    assert set(resumed.state) == set(s.state)
    assert all(torch.equal(v, s.state[k]) and v.dtype == s.state[k].dtype for k, v in resumed.state.items())
    take_step(s)
    take_step(resumed)
    assert same(s.context.weights(), resumed.context.weights())


def test_some_samples_of_a_class_are_refused(squares, tmp_path):
    (tmp_path / "list.txt").write_text("0\n4\n")
    with pytest.raises(BadInput, match=r"whole classes, got only some samples of: 0; .*class:NAME"):
        session(squares, target=Samples(str(tmp_path / "list.txt")))


def test_a_model_without_classes_is_refused(squares):
    from erasediff.api.erase import erase

    with pytest.raises(BadInput, match=r"selective_amnesia .*replays the others, and this model has none"):
        erase(TINY["unet2d-unconditional"]().pipeline(), "class:1", squares, "selective_amnesia", quiet=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"ewc_weight": -1.0},
        {"ewc_weight": float("nan")},
        {"fisher_samples": 0},
        {"fisher_timesteps": 0},
        {"replay": "nonsense"},
        {"replay_samples": 0},
        {"replay_steps": 0},
        {"null_share": 1.5},
    ],
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(BadInput, match=next(iter(fields))):
        SelectiveAmnesia(**fields)
