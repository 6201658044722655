"""The best trial of each method in races of trials, as the methods of the next race.

    python benchmarks/tuned.py runs/mnist/race-trials/race.json --output_file benchmarks/tuned.yaml

Trials are called ``method 1``, ``method 2``, ...: the best is the one that reached the line in the least time over the
reference of its race; where none did, the one that came nearest (least excess of forget rate and Frechet ratio over the
line, both as ratios, at any look). The reference's own run is one of its method's trials; where another one is faster,
that one becomes the next race's reference, beside the defaults. Prints every trial.

Trials may lie in several races of one seed and target: each is measured by the reference of its own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from time_to_target import AGAIN

from erasediff.files import write_atomic
from erasediff.report.race import parse, standings

DEFAULTS = " (defaults)"


def name_of(label: str) -> str:
    """``salun 3`` -> ``salun``."""
    name, _, number = label.rpartition(" ")
    return name if number.isdigit() else label


def excess(points: list[dict[str, Any]], line: dict[str, float]) -> float:
    """How far the best look stayed above the line: 1 is on it. A look without a measure had forgotten too little."""
    return min((max(p[k] / line[k] for k in line if p[k] is not None) for p in points), default=float("inf"))


def trials(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every trial once, with ``over``: its time over the reference's of its race, or the bound of it.

    Raises ValueError where two races call different settings by one label.
    """
    found: list[dict[str, Any]] = []
    for record in records:
        over = {s.label: s.middle for s in standings(parse(record, "race.json"), record["reference"])}
        for run in record["runs"]:
            if run["label"] == record["reference"] + AGAIN:
                continue
            settings = record["methods"].get(run["label"]) or {}
            if (known := next((r for r in found if r["label"] == run["label"]), None)) is None:
                found.append({**run, "over": over[run["label"]], "settings": settings})
            elif known["settings"] != settings:
                raise ValueError(f"two races call {known['settings']} and {settings} {run['label']}: rename one")
    return found


def best(tried: list[dict[str, Any]], line: dict[str, float]) -> dict[str, dict[str, Any]]:
    """The chosen trial of every method."""

    def rank(run: dict[str, Any]) -> tuple[bool, float]:
        return (not run["reached"], run["over"].value if run["reached"] else excess(run["points"], line))

    names = dict.fromkeys(name_of(run["label"]) for run in tried)
    return {name: min((r for r in tried if name_of(r["label"]) == name), key=rank) for name in names}


def methods(tried: list[dict[str, Any]], line: dict[str, float], reference: str) -> dict[str, dict[str, Any]]:
    """What the next race runs: the reference first, and its defaults too where a trial of it was faster."""
    chosen = best(tried, line)
    found = {reference: chosen[reference]["settings"]}
    if chosen[reference]["label"] != reference:
        first = next(run for run in tried if run["label"] == reference)
        found[reference + DEFAULTS] = {"method": reference, **first["settings"]}
    return found | {name: run["settings"] for name, run in chosen.items() if name != reference}


def table(tried: list[dict[str, Any]], line: dict[str, float]) -> str:
    """A line a trial; time over the reference's."""
    chosen = [run["label"] for run in best(tried, line).values()]
    lines = ["| trial | settings | reached | steps | time / reference | forget rate, Frechet ratio at the end |"]
    lines.append("|---|---|---|---:|---:|---:|")
    for run in tried:
        settings = {k: v for k, v in run["settings"].items() if k != "method"}
        label = f"**{run['label']}**" if run["label"] in chosen else run["label"]
        last = run["points"][-1] if run["points"] else None
        end = f"{last['forget_rate']:.3f}, {_ratio(last['frechet_ratio'])}" if last else run["why"]
        time = run["over"].text(f"{run['over'].value:.2f}")
        steps = run["steps"] or (last["step"] if last else 0)
        lines.append(f"| {label} | {json.dumps(settings)} | {run['reached']} | {steps} | {time} | {end} |")
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("races", type=Path, nargs="+")
    parser.add_argument("--output_file", type=Path)
    given = parser.parse_args()
    records = [json.loads(place.read_text()) for place in given.races]
    if len(seeds := {run["seed"] for record in records for run in record["runs"]}) != 1:
        parser.error(f"trials are compared on one seed; {', '.join(map(str, given.races))} have {sorted(seeds)}")
    for key in ("target", "reference", "target_line"):
        if any(record[key] != records[0][key] for record in records):
            parser.error(f"trials are compared on one {key}; given: {[record[key] for record in records]}")
    try:
        tried, line = trials(records), records[0]["target_line"]
    except ValueError as error:
        parser.error(str(error))
    print(table(tried, line))
    if given.output_file is None:
        return
    text = yaml.safe_dump(
        methods(tried, line, records[0]["reference"]), sort_keys=False, default_flow_style=None, width=120
    )
    write_atomic(given.output_file, f"# Written by benchmarks/tuned.py: the best of each method's trials.\n{text}")


if __name__ == "__main__":
    main()
