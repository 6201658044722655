"""The table of a comparison against its control: means over pairs of target and seed, and the pair farthest out.

    python experiments/images/table.py runs/mnist/comparison --targets class:1 --output_file results/classes.json \
        --pairs_file results/classes.md

Reads compare.json and prints a table in Markdown; writes the rows behind it, and a table of every single pair.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from erasediff.files import read_json, write_atomic, write_json

FORGOTTEN = ("forget_rate", "forget_rate_unconditional")
KEPT = ("retain_accuracy", "retain_accuracy_worst", "precision", "recall")
FRECHET = "frechet_distance"
MEASURES = {
    "forget_rate": ("forget rate", "0.01 at most"),
    "forget_rate_unconditional": ("unconditional", ""),
    "retain_accuracy": ("accuracy", "-0.005 at least"),
    "retain_accuracy_worst": ("worst class", "-0.02 at least"),
    FRECHET: ("Frechet / control", "1.05 at most"),
    "precision": ("precision", "-0.02 at least"),
    "recall": ("recall", "-0.02 at least"),
}
"""Measure -> its title, and what a default has to reach: rates as they are, Frechet distance as a ratio to the control
of the same target and seed, the others as differences to it."""
NAMES = tuple(MEASURES)
TITLES, WANTED = zip(*MEASURES.values(), strict=True)

Values = dict[tuple[str, int], dict[str, dict[str, float]]]
"""(target, seed) -> method -> measure -> value."""


def rows(compared: dict[str, Any], targets: list[str]) -> list[dict[str, Any]]:
    """Every audited run and model of the targets (none: all): what it is, and each measure with its interval and n."""
    found = []
    for run in [*compared["models"], *compared["runs"]]:
        if all(name in run["measures"] for name in NAMES) and (not targets or run["target"] in targets):
            measures = {name: run["measures"][name] for name in NAMES}
            found.append({"target": run["target"], "seed": run["seed"], "method": run["label"], "measures": measures})
    return found


def values(found: list[dict[str, Any]]) -> Values:
    """A model that is the same for every seed (its own is ``None``) stands beside each."""
    seeds = sorted({row["seed"] for row in found if row["seed"] is not None})
    by: Values = {}
    for row in found:
        for seed in seeds if row["seed"] is None else [row["seed"]]:
            place = by.setdefault((row["target"], seed), {})
            place[row["method"]] = {name: m["value"] for name, m in row["measures"].items()}
    return by


def pairs(by: Values, control: str, methods: list[str]) -> str:
    """A line for each target, seed and method."""
    lines = [f"| target, seed | method | {' | '.join(TITLES)} |", "|---|---|" + "---:|" * len(TITLES)]
    for (target, seed), place in sorted(by.items()):
        for m in (m for m in methods if m in place and control in place):
            v = place[m]
            shown = [f"{v[n]:.3f}" for n in FORGOTTEN] + [f"{v[n]:.4f}" for n in KEPT[:2]]
            shown += [f"{v[FRECHET] / place[control][FRECHET]:.2f}"] + [f"{v[n]:.3f}" for n in KEPT[2:]]
            lines.append(f"| {target}, {seed} | {m} | {' | '.join(shown)} |")
    return "\n".join(lines)


def summary(by: Values, control: str, methods: list[str]) -> str:
    """A line for each method: means over its pairs, and in brackets the pair that is farthest out."""
    lines = [f"| | pairs | {' | '.join(TITLES)} |", "|---|---:|" + "---:|" * len(TITLES)]
    lines.append(f"| wanted | | {' | '.join(WANTED)} |")
    for m in (m for m in methods if m != control):
        found = [p for p in by.values() if m in p and control in p]
        cells = [_cell([_against(p, m, control, name) for p in found], name) for name in NAMES]
        lines.append(f"| {m} | {len(found)} | {' | '.join(cells)} |")
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
        return f"{mean(found):.4f} ({max(found):.3f})"
    if name == FRECHET:
        return f"{mean(found):.2f} ({max(found):.2f})"
    return f"{mean(found):+.4f} ({min(found):+.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--targets", nargs="+", default=[])
    parser.add_argument("--output_file", type=Path)
    parser.add_argument("--pairs_file", type=Path)
    given = parser.parse_args()
    compared = read_json(given.comparison / "compare.json")
    found, control = rows(compared, given.targets), compared["control"]
    methods = list(dict.fromkeys(row["method"] for row in found))
    by = values(found)
    print(summary(by, control, methods))
    if given.output_file is not None:
        write_json(given.output_file, {"command": f"erasediff compare, {len(found)} models", "runs": found})
    if given.pairs_file is not None:
        write_atomic(given.pairs_file, pairs(by, control, methods) + "\n")


if __name__ == "__main__":
    main()
