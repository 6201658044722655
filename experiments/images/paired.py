"""EraseDiff against each rival and the control in paired tests, from the rows that table.py wrote.

    python experiments/images/paired.py experiments/images/results/classes.json

Prints a line for each measure and rival: the mean difference over the pairs of target and seed that both have, its
two-sided p before and after Holm's correction over all lines, and, where the comparison has a margin of equivalence, p
of equivalence after the correction over those.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from table import FORGOTTEN, FRECHET, KEPT, NAMES, TITLES

from erasediff.api.entries import OTHERS
from erasediff.auditing.result import ERASED, Measurement
from erasediff.files import read_json
from erasediff.report.aggregate import COMPLETED, CONTROL, METHOD, RunRow, aggregate
from erasediff.report.rivals import PairedTest, chance, paired_tests

MARGINS = yaml.safe_load(Path(__file__).with_name("plan.yaml").read_text())["margins"]


def run_rows(found: list[dict[str, Any]], control: str) -> list[RunRow]:
    """The rows as those of a comparison."""
    kinds = {**OTHERS, control: CONTROL}
    return [
        RunRow(
            label=row["method"],
            kind=kinds.get(row["method"], METHOD),
            target=row["target"],
            seed=row["seed"],
            status=COMPLETED,
            measures={name: _measurement(name, row["measures"][name]) for name in NAMES},
        )
        for row in found
    ]


def lines(tests: list[PairedTest]) -> str:
    """A line a test, in Markdown."""
    titles = dict(zip(NAMES, TITLES, strict=True))
    made = ["| measure | rival | pairs | difference | better | p | p (Holm) | equal within | p (Holm) |"]
    made.append("|---|---|---:|---:|---|---:|---:|---:|---:|")
    for test in tests:
        told = f"{test.difference:+.4f} | {test.better or 'neither'} | {chance(test.p)} | {chance(test.p_holm)}"
        equal = f"{test.margin or ''} | {chance(test.equivalence_holm) if test.margin else ''}"
        title = "Frechet distance" if test.measure == FRECHET else titles[test.measure]
        made.append(f"| {title} | {test.rival} | {test.pairs} | {told} | {equal} |")
    return "\n".join(made)


def _measurement(name: str, of: dict[str, Any]) -> Measurement:
    group = "forget" if name in FORGOTTEN else "retain"
    return Measurement(name=name, group=group, subject=ERASED, higher_is_better=name in KEPT, **of)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--control", default="fine_tune")
    parser.add_argument("--reference", default="erasediff")
    parser.add_argument("--rivals", nargs="+", default=[], help="of these alone (default: all)")
    given = parser.parse_args()
    found = run_rows(read_json(given.rows)["runs"], given.control)
    chosen = [r for r in found if not given.rivals or r.label in (given.reference, *given.rivals)]
    print(lines(paired_tests(aggregate(chosen), given.reference, MARGINS)))


if __name__ == "__main__":
    main()
