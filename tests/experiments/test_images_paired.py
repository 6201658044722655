"""Paired tests from the rows that the table wrote."""

import pytest


@pytest.fixture
def paired(script):
    return script("experiments/images", "paired")


def row(paired, method, seed, **values):
    measures = {name: {"value": values.get(name, 0.5), "low": 0.0, "high": 1.0, "n": 10} for name in paired.NAMES}
    return {"method": method, "target": "class:1", "seed": seed, "measures": measures}


def test_every_measure_against_every_rival_and_no_model_among_them(paired):
    found = [
        row(paired, method, seed, precision=value + 0.01 * seed * (method == "salun"), forget_rate=1 - value)
        for method, value in (("base", 0.9), ("erasediff", 0.5), ("salun", 0.7), ("fine_tune", 0.6))
        for seed in range(3)
    ]
    rows = paired.run_rows(found, "fine_tune")
    assert {r.label: r.kind for r in rows} == {
        "base": "model",
        "erasediff": "method",
        "salun": "method",
        "fine_tune": "control",
    }
    lines = paired.lines(paired.paired_tests(paired.aggregate(rows), "erasediff", paired.MARGINS)).splitlines()
    assert len(lines) == 2 + 2 * len(paired.NAMES)
    assert not any("| base |" in line for line in lines)
    precision = next(line for line in lines if line.startswith("| precision | salun | 3 | -0.2100 | salun |"))
    assert precision.endswith("| 0.02 | 1 |"), "far beyond the margin: not shown to be equal"
    forget = next(line for line in lines if line.startswith("| forget rate | salun |"))
    assert "| +0.2000 | salun |" in forget, "less of it is better"
    assert forget.endswith("|  |  |"), "a rate to be brought down has no margin"
    assert len({line.count("|") for line in lines}) == 1
