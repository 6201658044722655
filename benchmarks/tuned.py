"""The best trial of each method in a race of trials, as the methods of the next race.

    python benchmarks/tuned.py runs/mnist/race-trials/race.json --output_file benchmarks/tuned.yaml

Trials are called ``method 1``, ``method 2``, ...: the best is the one that reached the line in the least time; where
none did, the one that came nearest (least excess of forget rate and Frechet ratio over the line, both as ratios, at any
look). Prints every trial.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from erasediff.files import write_atomic

AGAIN = " (again)"


def name_of(label: str) -> str:
    """``salun 3`` -> ``salun``."""
    name, _, number = label.rpartition(" ")
    return name if number.isdigit() else label


def excess(points: list[dict[str, Any]], line: dict[str, float]) -> float:
    """How far the best look stayed above the line: 1 is on it. A look without a measure had forgotten too little."""
    return min((max(p[k] / line[k] for k in line if p[k] is not None) for p in points), default=float("inf"))


def rank(run: dict[str, Any], line: dict[str, float]) -> tuple[bool, float]:
    """Trials in order, the best first."""
    return (not run["reached"], run["seconds"] if run["reached"] else excess(run["points"], line))


def best(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The chosen trial's record of every method but the reference."""
    chosen: dict[str, dict[str, Any]] = {}
    for run in record["runs"]:
        name = name_of(run["label"])
        if run["label"] in (record["reference"], record["reference"] + AGAIN):
            continue
        if name not in chosen or rank(run, record["target_line"]) < rank(chosen[name], record["target_line"]):
            chosen[name] = run
    return chosen


def table(record: dict[str, Any]) -> str:
    """A line a trial; time over the reference's."""
    reference = next(r["seconds"] for r in record["runs"] if r["label"] == record["reference"])
    chosen = [run["label"] for run in best(record).values()]
    lines = ["| trial | settings | reached | steps | time / reference | forget rate, Frechet ratio at the end |"]
    lines.append("|---|---|---|---:|---:|---:|")
    for run in record["runs"]:
        settings = {k: v for k, v in record["methods"].get(run["label"], {}).items() if k != "method"}
        label = f"**{run['label']}**" if run["label"] in chosen else run["label"]
        last = run["points"][-1] if run["points"] else None
        end = f"{last['forget_rate']:.3f}, {_ratio(last['frechet_ratio'])}" if last else run["why"]
        time = f"{run['seconds'] / reference:.2f}" if run["reached"] else f">{run['limit_seconds'] / reference:.2f}"
        steps = run["steps"] or (last["step"] if last else 0)
        lines.append(f"| {label} | {json.dumps(settings)} | {run['reached']} | {steps} | {time} | {end} |")
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("race", type=Path)
    parser.add_argument("--output_file", type=Path)
    given = parser.parse_args()
    record = json.loads(given.race.read_text())
    if len(seeds := {run["seed"] for run in record["runs"]}) != 1:
        parser.error(f"trials are compared on one seed; {given.race} has {sorted(seeds)}")
    print(table(record))
    if given.output_file is None:
        return
    methods = {record["reference"]: record["methods"][record["reference"]]}
    methods |= {name: record["methods"][run["label"]] for name, run in best(record).items()}
    text = yaml.safe_dump(methods, sort_keys=False, default_flow_style=None, width=120)
    write_atomic(given.output_file, f"# Written by benchmarks/tuned.py: the best of each method's trials.\n{text}")


if __name__ == "__main__":
    main()
