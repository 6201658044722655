"""The table of a comparison: differences to the control of the same target and seed."""

import pytest


@pytest.fixture
def table(script):
    return script("experiments/images", "table")


def run(table, label, seed, **values):
    measures = {name: {"value": values.get(name, 0.5), "low": 0.0, "high": 1.0, "n": 10} for name in table.NAMES}
    return {"label": label, "target": "class:1", "seed": seed, "measures": measures}


def test_means_and_the_worst_pair_against_the_control_of_the_same_seed(table):
    runs = [
        run(table, "control", 0, frechet_distance=0.2, retain_accuracy=0.9),
        run(table, "control", 1, frechet_distance=0.4, retain_accuracy=0.8),
        run(table, "ours", 0, frechet_distance=0.2, retain_accuracy=0.8, forget_rate=0.01),
        run(table, "ours", 1, frechet_distance=0.6, retain_accuracy=0.9, forget_rate=0.03),
        run(table, "alone", 7),
        {"label": "ours", "target": "class:1", "seed": 2, "measures": {}},
    ]
    models = [{**run(table, "retrained", 1), "target": "class:2"}]
    found = table.rows({"runs": runs, "models": models}, [])
    assert len(found) == 6, "what was not measured is left out"
    assert len(table.rows({"runs": runs, "models": models}, ["class:2"])) == 1
    lines = table.summary(table.values(found), "control", ["control", "ours", "alone"]).splitlines()
    assert lines[-2].startswith("| ours | 2 | 0.0200 (0.030) | 0.5000 (0.500) | +0.0000 (-0.1000) |")
    assert "| 1.25 (1.50) |" in lines[-2]
    assert lines[-1] == "| alone | 0 |" + " - |" * 7
    assert len({line.count("|") for line in lines}) == 1
    lines = table.pairs(table.values(found), "control", ["control", "ours", "alone"]).splitlines()
    assert len(lines) == 6 and "| class:1, 1 | ours | 0.030 |" in lines[-1] and "| 1.50 |" in lines[-1]


def test_a_model_of_every_seed_stands_beside_each(table):
    runs = [run(table, label, seed) for label in ("control", "ours") for seed in (0, 1)]
    models = [run(table, "base", None, forget_rate=0.9)]
    by = table.values(table.rows({"runs": runs, "models": models}, []))
    assert {seed for _, seed in by} == {0, 1}
    assert "| base | 2 | 0.9000 (0.900) |" in table.summary(by, "control", ["base", "control", "ours"])
