"""The experiment of words in small: captions agree with labels, a second call goes on, every model is measured."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "words"


@pytest.fixture
def modules(script, monkeypatch):
    captions, run = script("experiments/words", "captions", "run")
    monkeypatch.setattr(captions, "PER_CLASS", 6)
    monkeypatch.setattr(captions, "HELD_OUT", 2)
    return captions, run


@pytest.fixture
def data(modules, tmp_path, monkeypatch):
    """What captions.py makes of 100 random images in Fashion-MNIST's form."""
    source = tmp_path / "fashion"
    source.mkdir()
    for part, count in (("train", 80), ("t10k", 20)):
        images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for stem, array in (("images-idx3", images), ("labels-idx1", (np.arange(count) % 10).astype(np.uint8))):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (source / f"{part}-{stem}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    monkeypatch.setattr(sys, "argv", ["captions.py", str(source), str(tmp_path / "data")])
    modules[0].main()
    return tmp_path / "data"


def test_captions_say_the_class_in_the_wordings_of_their_file(modules, data):
    captions = modules[0]
    with np.load(data / "base.npz") as base, np.load(data / "erase.npz") as erase:
        assert base["images"].shape == (80, 14, 14)
        assert base["held_out"].sum() == 20
        names = list(base["class_names"])
        for label, said, again in zip(base["labels"], base["captions"], erase["captions"], strict=True):
            own = {group: captions.prompts(group, names[label]) for group in captions.WORDINGS}
            assert said in own["training"] + own["paraphrases"]
            assert again in own["training"]
        assert "labels" not in erase.files
        assert np.array_equal(base["images"], erase["images"])


def test_no_wording_stands_in_two_groups(modules):
    said = [p for group in modules[0].WORDINGS for name in modules[0].CLASSES for p in modules[0].prompts(group, name)]
    assert len(set(said)) == len(said)


def test_a_plan_is_run_measured_and_not_run_again(modules, data, tmp_path, monkeypatch, capsys):
    import erasediff.api.judges as judges

    train_classifier = judges.train_classifier
    monkeypatch.setattr(judges, "train_classifier", lambda *a, **k: train_classifier(*a, **{**k, "steps": 5}))
    plan = yaml.safe_load((FOLDER / "plan.yaml").read_text())
    few = {"max_train_steps": 1, "train_batch_size": 4}
    plan["train"] = few
    plan["ask"] |= {"forget": 2, "retain": 1, "num_inference_steps": 2}
    plan["methods"] = {"erasediff": {"training": few}, "soft": {"method": "salun", "training": few}, "no_such": {}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    place = tmp_path / "runs"
    asked = ["run.py", str(data), "--output_dir", str(place), "--plan", str(tmp_path / "plan.yaml"), "--no_retrained"]
    monkeypatch.setattr(sys, "argv", asked)
    modules[1].main()
    assert "no_such: this version has no such method" in capsys.readouterr().out
    found = json.loads((place / "results.json").read_text())["models"]
    assert list(found) == ["base", "erasediff", "soft"]
    for entry in found.values():
        groups = entry["asked"]
        assert [groups[g]["forget_rate"]["n"] for g in groups] == [8, 8, 6]
        assert groups["paraphrases"]["retain_accuracy"]["n"] == 36
    assert found["base"]["asked"]["paraphrases"]["retain_change"]["value"] == 0
    stamps = {p: p.stat().st_mtime_ns for p in place.rglob("*") if p.parent.name in ("unet", "answers", "judge")}
    modules[1].main()
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}
    assert (place / "table.md").read_text().count("\n| ") == 3
    plan["methods"]["soft"]["training"] = few | {"max_train_steps": 2}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    with pytest.raises(SystemExit, match="soft was made by another entry of a plan"):
        modules[1].main()
