"""The choice among trials: the fastest to the line, else the nearest to it."""

import json
from pathlib import Path

import pytest
import yaml

LINE = {"forget_rate": 0.02, "frechet_ratio": 1.1}


def run(label, reached, seconds, points=(), seed=0):
    at = [{"seconds": 1.0, "step": 10, "forget_rate": f, "frechet_ratio": r} for f, r in points]
    return {
        "label": label,
        "seed": seed,
        "reached": reached,
        "why": "limit",
        "seconds": seconds if reached else None,
        "steps": 10 if reached else None,
        "limit_seconds": 50.0,
        "points": at,
    }


@pytest.fixture
def record():
    runs = [
        run("ours", True, 10.0),
        run("a 1", True, 30.0),
        run("a 2", True, 20.0),
        run("b 1", False, 50.0, [(0.04, None), (0.03, 1.5)]),
        run("b 2", False, 50.0, [(0.03, 1.2), (0.01, 4.0)]),
        run("c 1", False, 50.0),
        run("ours (again)", True, 11.0),
    ]
    methods = {r["label"]: {"method": r["label"].split()[0], "k": i} for i, r in enumerate(runs[:-1])}
    return {"reference": "ours", "target_line": LINE, "runs": runs, "methods": methods}


@pytest.fixture
def tuned(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import tuned

    return tuned


def test_the_fastest_is_taken_else_the_nearest(tuned, record):
    chosen = {name: found["label"] for name, found in tuned.best(record).items()}
    assert chosen == {"a": "a 2", "b": "b 1", "c": "c 1"}, "b 1 was 1.5 lines away at best, b 2 as well: the first"
    record["runs"][4]["points"][0]["forget_rate"] = 0.025
    assert tuned.best(record)["b"]["label"] == "b 2"
    text = tuned.table(record)
    assert "| **a 2** |" in text and "| 2.00 |" in text and "| >5.00 |" in text


def test_it_writes_what_the_race_reads(tuned, record, tmp_path, monkeypatch):
    place = tmp_path / "race.json"
    place.write_text(json.dumps(record))
    monkeypatch.setattr("sys.argv", ["tuned.py", str(place), "--output_file", str(tmp_path / "tuned.yaml")])
    tuned.main()
    assert yaml.safe_load((tmp_path / "tuned.yaml").read_text()) == {
        "ours": {"method": "ours", "k": 0},
        "a": {"method": "a", "k": 2},
        "b": {"method": "b", "k": 3},
        "c": {"method": "c", "k": 5},
    }
    record["runs"][0]["seed"] = 1
    place.write_text(json.dumps(record))
    with pytest.raises(SystemExit):
        tuned.main()
