"""The benchmark of time to target, in small: turns, limits, a stage that takes too long, going on."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from erasediff.api.train import train
from erasediff.auditing.classifier import train_classifier
from erasediff.data import sources
from erasediff.report.race import parse, standings


@pytest.fixture
def race(script, monkeypatch):
    """The script as a module, with few samples and few looks."""
    line, time_to_target = script("benchmarks", "line", "time_to_target")
    monkeypatch.setattr(line, "FIRST_LOOK", 4)
    few = {"samples": 6, "retained_per_class": 3, "num_inference_steps": 2}
    monkeypatch.setattr(time_to_target, "Line", lambda *given, **options: line.Line(*given, **few, **options))
    monkeypatch.setattr(time_to_target, "LOOKS", (1, 2, 3))
    return time_to_target


@pytest.fixture
def arguments(squares, tmp_path):
    """A base model, a judge and a file of methods, and the command line that names them."""
    np.savez(tmp_path / "data.npz", images=squares.images[:, 0].numpy(), labels=squares.labels.numpy())
    data = sources.load(str(tmp_path / "data.npz"))
    train(data, output_dir=tmp_path / "base", max_train_steps=2, train_batch_size=4, quiet=True)
    images, kept = data.floats(torch.arange(len(data))), ~data.held_out
    held = (images[data.held_out], data.labels[data.held_out])
    train_classifier(images[kept], data.labels[kept], num_classes=4, held_out=held, seed=0, steps=20).save(
        tmp_path / "judge"
    )
    few = "training: {train_batch_size: 4, max_train_steps: 3}"
    (tmp_path / "methods.yaml").write_text(
        f"erasediff: {{{few}}}\n{few}\nsalun: {{mask_batches: 1}}\n"
        "released_code: {method: released_code, batch_size: 8, epochs: 1}\n"
    )
    given = ["--base", str(tmp_path / "base"), "--data", str(tmp_path / "data.npz"), "--target", "class:1"]
    given += ["--classifier", str(tmp_path / "judge"), "--methods", str(tmp_path / "methods.yaml"), "--seeds", "0"]
    return [*given, "--output_dir", str(tmp_path / "race")]


def run(race, arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["time_to_target.py", *arguments])
    race.main()
    return json.loads((Path(arguments[-1]) / "race.json").read_text())


def test_every_method_gets_its_record_and_a_second_call_does_nothing(race, arguments, monkeypatch, capsys):
    found = run(race, arguments, monkeypatch)
    labels = [r["label"] for r in found["runs"]]
    assert sorted(labels) == ["erasediff", "erasediff (again)", "released_code", "salun"]
    assert (labels[0], labels[-1]) == ("erasediff", "erasediff (again)")
    for made in found["runs"]:
        assert made["why"] in ("reached", "limit", "its own steps were over")
        assert made["reached"] == (made["why"] == "reached")
        assert made["ended"] == (made["why"] == "its own steps were over")
        seconds = [p["seconds"] for p in made["points"]]
        assert seconds == sorted(seconds)
    assert len(standings(parse(found, "race.json"), "erasediff")) == 4
    assert "| salun |" in capsys.readouterr().out
    assert run(race, arguments, monkeypatch) == found
    with pytest.raises(SystemExit) as refused:
        run(race, ["--only", "salun", *arguments], monkeypatch)
    assert refused.value.code == 2 and "is a race with other methods; give another" in capsys.readouterr().err
    assert json.loads((Path(arguments[-1]) / "race.json").read_text()) == found


def test_a_race_that_goes_on_refuses_another_base_and_another_judge(race, tmp_path, capsys):
    said = {"reference": "erasediff", "classifier": "j", "bases": {"0": "a", "1": "b"}, "runs": []}
    (tmp_path / "race.json").write_text(json.dumps({**said, "runs": [1]}))
    gone_on = race.earlier(tmp_path / "race.json", {**said, "bases": {"1": "b", "2": "c"}})
    assert (gone_on["runs"], gone_on["bases"]) == ([1], {"0": "a", "1": "b", "2": "c"})
    for other, named in (({"bases": {"1": "c"}}, "bases"), ({"classifier": "k"}, "classifier")):
        with pytest.raises(SystemExit) as refused:
            race.earlier(tmp_path / "race.json", said | other)
        assert refused.value.code == 2 and f"is a race with other {named}; give another" in capsys.readouterr().err


def test_a_stage_that_takes_longer_than_the_limit_ends_the_run(race):
    import contestants

    class Slow:
        label, step, seconds, last_step = "slow", 0, 0.0, 10

        def prepare(self, limit):
            began = time.process_time()
            try:
                with contestants.at_most(limit):
                    while True:
                        pass
            finally:
                self.seconds = time.process_time() - began

        def close(self):
            pass

    slow = Slow()
    runner = race.Runner(slow, None, 0.05)
    runner.turn()
    made = runner.record(0)
    assert runner.done and not made["reached"]
    assert made["why"] == "a stage before its first step took longer than the limit"
    # Not compared with the limit: the timer counts in the kernel's ticks, the clock does not.
    assert made["limit_seconds"] == slow.seconds > 0
