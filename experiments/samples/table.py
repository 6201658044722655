"""The table of a comparison about samples: a line a model, means over the seeds, least and most in brackets.

    python experiments/samples/table.py runs/samples/comparison --output_file experiments/samples/results/seeds.json

Reads compare.json, prints the table in Markdown, and writes the rows behind it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from erasediff.files import read_json, write_json

MEASURES = {
    "regeneration_rate": "copies among what is drawn",
    "mia_auc_loss": "membership AUC (loss)",
    "frechet_distance": "Frechet distance",
    "precision": "precision",
    "recall": "recall",
}


def rows(compared: dict[str, Any]) -> list[dict[str, Any]]:
    """Every audited model and run of a seed: what it is, and each measure with its interval and n."""
    found = []
    for run in [*compared["models"], *compared["runs"]]:
        if all(name in run["measures"] for name in MEASURES):
            measures = {name: run["measures"][name] for name in MEASURES}
            found.append({"method": run["label"], "seed": run["seed"], "measures": measures})
    return found


def table(found: list[dict[str, Any]]) -> str:
    lines = [f"| model | seeds | {' | '.join(MEASURES.values())} |", "|---|---:|" + "---:|" * len(MEASURES)]
    for method in dict.fromkeys(row["method"] for row in found):
        mine = [row for row in found if row["method"] == method]
        cells = []
        for name in MEASURES:
            values = [row["measures"][name]["value"] for row in mine]
            cells.append(f"{mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]")
        lines.append(f"| {method} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--output_file", type=Path)
    given = parser.parse_args()
    found = rows(read_json(given.comparison / "compare.json"))
    print(table(found))
    if given.output_file is not None:
        write_json(given.output_file, {"runs": found})


if __name__ == "__main__":
    main()
