"""Two classes at once, and one after the other: the audits of several seeds as rows and one table.

    python experiments/images/two_classes.py runs/mnist --seeds 0 1 2 \
        --output_file experiments/images/results/two-classes.json

Reads ``both-SEED/audit`` and ``second-SEED/audit`` of the commands in README.md, prints a table in Markdown (means over
the seeds, and the seed that is farthest out), and writes the rows behind it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from table import KEPT, NAMES

from erasediff.auditing.attacks.base import BASE
from erasediff.auditing.result import ERASED
from erasediff.files import read_json, write_json

RUNS = {"both": "both at once", "second": "4, then 7"}
WORST = {name: min if name in KEPT else max for name in NAMES}
"""Measure -> which of several seeds is farthest out."""


def rows(place: Path, seeds: list[int]) -> list[dict[str, Any]]:
    """A row for every audited model: base model and both erasures of every seed."""
    found: list[dict[str, Any]] = []
    for seed in seeds:
        for run, name in RUNS.items():
            audit = read_json(place / f"{run}-{seed}" / "audit" / "audit.json")
            for subject in (BASE, ERASED) if run == next(iter(RUNS)) else (ERASED,):
                measured = {m["name"]: m for m in audit["measurements"] if m["subject"] == subject}
                measures = {n: {k: measured[n][k] for k in ("value", "low", "high", "n")} for n in WORST}
                found.append({"model": subject if subject == BASE else name, "seed": seed, "measures": measures})
    return found


def table(found: list[dict[str, Any]]) -> str:
    """A line a model: mean over the seeds, and the worst seed in brackets."""
    lines = [f"| model | {' | '.join(WORST)} |", "|---|" + "---:|" * len(WORST)]
    for model in dict.fromkeys(row["model"] for row in found):
        cells = []
        for name, worst in WORST.items():
            values = [row["measures"][name]["value"] for row in found if row["model"] == model]
            cells.append(f"{mean(values):.3f} ({worst(values):.3f})")
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output_file", type=Path)
    given = parser.parse_args()
    found = rows(given.place, given.seeds)
    print(table(found))
    if given.output_file is not None:
        write_json(given.output_file, {"schema": 1, "rows": found})


if __name__ == "__main__":
    main()
