"""Audits of two classes at once and one after the other, as rows."""

import json

import pytest


@pytest.fixture
def two_classes(script):
    return script("experiments/images", "two_classes")


def audited(place, run, seed, erased, names):
    at = place / f"{run}-{seed}" / "audit"
    at.mkdir(parents=True)
    measured = [
        {"name": name, "subject": subject, "value": value, "low": 0.0, "high": 1.0, "n": 10, "group": "x"}
        for name in names
        for subject, value in (("erased", erased), ("base", 0.5))
    ]
    (at / "audit.json").write_text(json.dumps({"measurements": measured}))


def test_means_over_seeds_and_the_worst_of_each(two_classes, tmp_path):
    for seed, value in ((0, 0.2), (1, 0.4)):
        for run in two_classes.RUNS:
            audited(tmp_path, run, seed, value, two_classes.WORST)
    found = two_classes.rows(tmp_path, [0, 1])
    assert [(row["model"], row["seed"]) for row in found].count(("base", 0)) == 1, "both audits measure it"
    base, both, second = two_classes.table(found).splitlines()[2:]
    assert base.startswith("| base | 0.500 (0.500) |")
    assert (
        both
        == "| both at once | 0.300 (0.400) | 0.300 (0.400) | "
        + " | ".join(["0.300 (0.200)", "0.300 (0.200)", "0.300 (0.400)", "0.300 (0.200)", "0.300 (0.200)"])
        + " |"
    ), "the highest rate and distance, the lowest of the others"
    assert second.startswith("| 4, then 7 |")
