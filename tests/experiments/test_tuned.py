"""The choice among trials: the fastest to the line, else the nearest to it."""

import json

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
    return {
        "schema": 1,
        "reference": "ours",
        "target": "class:1",
        "target_line": LINE,
        "runs": runs,
        "methods": methods,
    }


@pytest.fixture
def tuned(script):
    return script("benchmarks", "tuned")


def test_the_fastest_is_taken_else_the_nearest(tuned, record):
    chosen = {name: found["label"] for name, found in tuned.best(tuned.trials([record]), LINE).items()}
    assert chosen == {"ours": "ours", "a": "a 2", "b": "b 1", "c": "c 1"}, "b 1 and b 2 are 1.5 lines away: the first"
    record["runs"][4]["points"][0]["forget_rate"] = 0.025
    tried = tuned.trials([record])
    assert tuned.best(tried, LINE)["b"]["label"] == "b 2"
    text = tuned.table(tried, LINE)
    assert "| **a 2** |" in text and "| 2.00 |" in text and "| >5.00 |" in text and "never" not in text
    record["runs"][5]["ended"] = True
    assert "never" in tuned.table(tuned.trials([record]), LINE)


def test_a_faster_trial_of_the_reference_takes_its_place_beside_the_defaults(tuned, record):
    record["runs"].insert(1, run("ours 1", True, 8.0))
    record["methods"]["ours 1"] = {"method": "ours", "k": 9}
    found = tuned.methods(tuned.trials([record]), LINE, "ours")
    assert list(found)[:2] == ["ours", "ours (defaults)"]
    assert found["ours"]["k"] == 9 and found["ours (defaults)"]["k"] == 0
    record["runs"][1] = run("ours 1", True, 12.0)
    assert "ours (defaults)" not in tuned.methods(tuned.trials([record]), LINE, "ours")


def test_trials_of_two_races_are_each_measured_by_their_own_reference(tuned, record):
    other = {**record, "runs": [run("ours", True, 40.0), run("a 3", True, 60.0)]}
    other["methods"] = {"ours": record["methods"]["ours"], "a 3": {"method": "a"}}
    tried = tuned.trials([record, other])
    assert [r["label"] for r in tried].count("ours") == 1
    assert tuned.best(tried, LINE)["a"]["label"] == "a 3", "1.5 times its reference, a 2 takes twice its own"
    other["methods"] = {"ours": {"k": 9}, "a 3": {"method": "a"}}
    with pytest.raises(ValueError, match="rename one"):
        tuned.trials([record, other])


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
    for change in ({"runs": [{**r, "seed": i} for i, r in enumerate(record["runs"])]}, {"target": "class:2"}):
        other = tmp_path / "other.json"
        other.write_text(json.dumps({**record, **change}))
        monkeypatch.setattr("sys.argv", ["tuned.py", str(place), str(other)])
        with pytest.raises(SystemExit):
            tuned.main()
