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
    found = table.rows({"runs": runs})
    assert len(found) == 5, "what was not measured is left out"
    text = table.summary(table.values(found), "control", ["control", "ours", "alone"])
    assert "| ours (2 pairs) | alone (0 pairs) |" in text
    assert "| 0.0200, at most 0.030 | - |" in text
    assert "| +0.0000, at least -0.1000 | - |" in text
    assert "| 1.25, at most 1.50 | - |" in text
    lines = table.pairs(table.values(found), "control", ["control", "ours", "alone"]).splitlines()
    assert len(lines) == 6 and "| class:1, 1 | ours | 0.030 |" in lines[-1] and "| 1.50 |" in lines[-1]
