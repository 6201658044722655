"""The table of README.md: what the demo measured, side by side for several seeds.

for seed in 0 1 2; do erasediff demo --output_dir runs/demo-$seed --seed $seed; done
python experiments/demo/table.py runs/demo-0 runs/demo-1 runs/demo-2
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from erasediff.auditing.attacks.base import BASE, CONTROL, RETRAINED
from erasediff.auditing.result import ERASED
from erasediff.files import read_json

SUBJECTS = (BASE, ERASED, RETRAINED, CONTROL)
ROWS = {
    "forget_rate": "samples asked for a 7 that are one",
    "forget_rate_unconditional": "samples without a condition that are a 7",
    "retain_accuracy": "accuracy of the other digits",
    "retain_accuracy_worst": "accuracy of the worst other digit",
    "frechet_distance": "Frechet distance of the other digits",
    "relearn_k10": "mean share of 7s while relearning from 10 images",
}


def table(audits: list[dict[str, Any]]) -> str:
    """A line a measure, a column a model, in a cell the seeds in their order."""
    lines = [f"| measure | {' | '.join(SUBJECTS)} |", "|---|" + "---:|" * len(SUBJECTS)]
    for name, title in ROWS.items():
        found = [{m["subject"]: m for m in audit["measurements"] if m["name"] == name} for audit in audits]
        counts = {m["n"] for by in found for m in by.values()}
        size = f" (n = {counts.pop():,})" if len(counts) == 1 and name != "frechet_distance" else ""
        cells = [
            " / ".join(f"{by[subject]['value']:.3f}" for by in found) if all(subject in by for by in found) else "-"
            for subject in SUBJECTS
        ]
        lines.append(f"| {title}{size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(audits: list[dict[str, Any]]) -> str:
    return "verdicts: " + ", ".join(str(audit["verdict"]["level"]) for audit in audits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demos", type=Path, nargs="+", help="output directories of erasediff demo")
    audits = [read_json(place / "audit" / "audit.json") for place in parser.parse_args().demos]
    print(table(audits))
    print(verdicts(audits))


if __name__ == "__main__":
    main()
