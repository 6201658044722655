"""The table of a comparison against its control, pair by pair of target and seed, and what it is held to.

    python experiments/images/table.py runs/mnist/comparison --output_file experiments/images/results/classes.json

Reads compare.json, prints two tables in Markdown, and writes the rows behind them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from erasediff.files import write_json

FORGOTTEN = ("forget_rate", "forget_rate_unconditional")
KEPT = ("retain_accuracy", "retain_accuracy_worst", "precision", "recall")
FRECHET = "frechet_distance"
NAMES = (*FORGOTTEN, *KEPT[:2], FRECHET, *KEPT[2:])


class Line(NamedTuple):
    """What a default has to reach: against zero for rates, else against the control of the same target and seed."""

    title: str
    wanted: str
    name: str


LINES = (
    Line("forget rate", "0.01 at most", "forget_rate"),
    Line("drawn without a condition", "", "forget_rate_unconditional"),
    Line("accuracy, difference", "-0.005 at least", "retain_accuracy"),
    Line("worst class, difference", "-0.02 at least", "retain_accuracy_worst"),
    Line("Frechet distance, ratio", "1.05 at most", FRECHET),
    Line("precision, difference", "-0.02 at least", "precision"),
    Line("recall, difference", "-0.02 at least", "recall"),
)

Values = dict[tuple[str, int], dict[str, dict[str, float]]]
"""(target, seed) -> method -> measure -> value."""


def rows(compared: dict[str, Any]) -> list[dict[str, Any]]:
    """Every audited run: what it is, and each measure with its interval and n."""
    found = []
    for run in compared["runs"]:
        if all(name in run["measures"] for name in NAMES):
            measures = {name: run["measures"][name] for name in NAMES}
            found.append({"target": run["target"], "seed": run["seed"], "method": run["label"], "measures": measures})
    return found


def values(found: list[dict[str, Any]]) -> Values:
    by: Values = {}
    for row in found:
        place = by.setdefault((row["target"], row["seed"]), {})
        place[row["method"]] = {name: m["value"] for name, m in row["measures"].items()}
    return by


def pairs(by: Values, control: str, methods: list[str]) -> str:
    """A line for each target, seed and method."""
    lines = [
        "| target, seed | method | forget rate | unconditional | accuracy | worst class | Frechet / control "
        "| precision | recall |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (target, seed), place in sorted(by.items()):
        for m in (m for m in methods if m in place and control in place):
            v = place[m]
            shown = [f"{v[n]:.3f}" for n in FORGOTTEN] + [f"{v[n]:.4f}" for n in KEPT[:2]]
            shown += [f"{v[FRECHET] / place[control][FRECHET]:.2f}"] + [f"{v[n]:.3f}" for n in KEPT[2:]]
            lines.append(f"| {target}, {seed} | {m} | {' | '.join(shown)} |")
    return "\n".join(lines)


def summary(by: Values, control: str, methods: list[str]) -> str:
    """Means over pairs, and the pair that is farthest out."""
    rivals = {m: [p for p in by.values() if m in p and control in p] for m in methods if m != control}
    heads = [f"{m} ({len(found)} pairs)" for m, found in rivals.items()]
    lines = [f"| | wanted | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(heads)]
    for line in LINES:
        cells = [_cell([_against(p, m, control, line.name) for p in found], line.name) for m, found in rivals.items()]
        lines.append(f"| {line.title} | {line.wanted} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _against(place: dict[str, dict[str, float]], method: str, control: str, name: str) -> float:
    mine, other = place[method][name], place[control][name]
    if name in FORGOTTEN:
        return mine
    return mine / other if name == FRECHET else mine - other


def _cell(found: list[float], name: str) -> str:
    if not found:
        return "-"
    if name in FORGOTTEN:
        return f"{mean(found):.4f}, at most {max(found):.3f}"
    if name == FRECHET:
        return f"{mean(found):.2f}, at most {max(found):.2f}"
    return f"{mean(found):+.4f}, at least {min(found):+.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--output_file", type=Path)
    given = parser.parse_args()
    compared = json.loads((given.comparison / "compare.json").read_text())
    found, control = rows(compared), compared["control"]
    methods = list(dict.fromkeys(run["label"] for run in compared["runs"]))
    by = values(found)
    print(pairs(by, control, methods), summary(by, control, methods), sep="\n\n")
    if given.output_file is not None:
        write_json(given.output_file, {"command": f"erasediff compare, {len(found)} runs", "runs": found})


if __name__ == "__main__":
    main()
