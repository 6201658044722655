"""``erasediff list``: what there is to choose from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

from erasediff.cli.bridge import Parser
from erasediff.cli.common import FORMATS
from erasediff.errors import check_one_of, listing

Row = dict[str, Any]


def methods() -> list[Row]:
    from erasediff.methods import METHODS
    from erasediff.methods.base import WeightEdit

    rows = []
    for name, kind in METHODS.items():
        defaults = {f.name: getattr(kind(), f.name) for f in fields(kind)}
        rows.append(
            {
                "name": name,
                "summary": kind.SUMMARY,
                "paper": kind.PAPER,
                "needs": asdict(kind().needs),
                "closed_form": isinstance(kind(), WeightEdit),
                "forward_equivalents_per_step": kind().forward_equivalents(),
                "fields": defaults,
            }
        )
    return rows


def families() -> list[Row]:
    from erasediff.families import FAMILIES

    return [
        {
            "name": name,
            "summary": family.summary,
            "pipelines": list(family.pipelines),
            "targets": list(family.targets),
            "predictions": list(family.predictions),
            "exports": list(family.exports),
            "needs": list(family.needs),
        }
        for name, family in FAMILIES.items()
    ]


def rules() -> list[Row]:
    from erasediff.solver.rules import RULES

    return [
        {"name": r.name, "summary": r.reference, "barrier": r.claims_barrier, "reproduction": r.reproduction}
        for r in RULES.values()
    ]


def metrics() -> list[Row]:
    from erasediff.auditing.catalogue import METRICS

    return [{"name": name, "summary": text} for name, text in METRICS.items()]


def attacks() -> list[Row]:
    from erasediff.auditing.attacks import ATTACKS
    from erasediff.auditing.suites import SUITES

    return [
        {
            "name": name,
            "summary": ATTACKS[name].SUMMARY,
            "paper": ATTACKS[name].PAPER,
            "suites": [s.name for s in SUITES.values() if name in {a.name for a in s.attacks}],
        }
        for name in ATTACKS
    ]


def suites() -> list[Row]:
    from erasediff.auditing.suites import SUITES

    return [
        {
            "summary": f"{s.forget} + {s.per_class} per class + {s.unconditional} samples, {len(s.attacks)} attacks",
            **s.to_dict(),
        }
        for s in SUITES.values()
    ]


def presets() -> list[Row]:
    from erasediff.api.presets import PRESETS

    return [preset.to_dict() for preset in PRESETS.values()]


TABLES: dict[str, Callable[[], list[Row]]] = {
    "methods": methods,
    "families": families,
    "metrics": metrics,
    "attacks": attacks,
    "presets": presets,
    "rules": rules,
    "suites": suites,
}


# What stands below a row in text, by table; JSON has all of it.
SHOWN = {
    "families": ("pipelines", "targets", "predictions", "exports", "needs"),
    "presets": ("anchor", "prompts", "retain_prompts", "sources", "verified"),
}


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="erasediff list", description="What there is to choose from.")
    parser.add_argument("what", metavar="WHAT", help=listing(TABLES))
    parser.add_argument("--format", metavar="text|json", default="text", help="json for programs (default: text)")
    given = parser.parse(argv)
    what, form = given["what"], given["format"]
    check_one_of("list", what, TABLES)
    check_one_of("--format", form, FORMATS)
    rows = TABLES[what]()
    if form == "json":
        print(json.dumps(rows, indent=2))
        return 0
    width = max((len(r["name"]) for r in rows), default=0)
    for row in rows:
        paper = f"  ({row['paper']})" if row.get("paper") else ""
        print(f"{row['name']:<{width}}  {row['summary']}{paper}")
        for key in SHOWN.get(what, ()):
            said = row[key] if isinstance(row[key], str) else listing(row[key])
            print(f"{'':<{width}}    {key}: {said}")
    if not rows:
        print(f"no {what} in this version")
    return 0
