"""The generated part of docs/methods.md. `python tests/docs/methods_table.py` writes it anew; a test compares it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from erasediff.cli.bridge import descriptions
from erasediff.cli.list import methods, rules
from erasediff.methods import METHODS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"
BEGIN, END = "<!-- generated: methods -->", "<!-- /generated: methods -->"
NEEDS = {
    "forget_set": "a forget set",
    "retain_set": "a retain set",
    "classes": "a model with classes",
    "null_condition": "a null condition",
    "anchor": "an anchor",
    "own_condition": "a class or concept as the target",
    "text_maps": "a model that reads text",
    "frozen": "a frozen copy of the model",
}


def generated() -> str:
    """Methods with their fields, then rules, as Markdown."""
    parts = ["## Methods", _overview(), *(_method(row) for row in methods()), "## Rules", _rules()]
    return "\n\n".join(parts) + "\n"


def _overview() -> str:
    head = "| method | summary | paper | forward equivalents a step |\n|---|---|---|---:|"
    rows = [
        f"| [`{m['name']}`](#{m['name']}) | {_cell(m['summary'])} | {_paper(m['paper'])} "
        f"| {m['forward_equivalents_per_step']:g} |"
        for m in methods()
    ]
    return "\n".join([head, *rows])


def _method(row: dict[str, Any]) -> str:
    needed = ", ".join(text for key, text in NEEDS.items() if row["needs"][key])
    summary = row["summary"][0].upper() + row["summary"][1:]
    start = " Other methods can start from it: `--init`." if row["closed_form"] else ""
    told = f"### {row['name']}\n\n{summary}. With its defaults it needs {needed}.{start}"
    parent = _parent(row["name"])
    if parent is None:
        return f"{told}\n\n{_fields(row)}"
    own = _own_defaults(row, next(m for m in methods() if m["name"] == parent))
    return f"{told} Its fields are [those of {parent}](#{parent}); these defaults are its own:\n\n{own}"


def _fields(row: dict[str, Any]) -> str:
    said = descriptions(METHODS[row["name"]])
    lines = [f"| `{name}` | `{_shown(value)}` | {_cell(said.get(name, ''))} |" for name, value in row["fields"].items()]
    return "\n".join(["| field | default | meaning |", "|---|---|---|", *lines])


def _own_defaults(row: dict[str, Any], parent: dict[str, Any]) -> str:
    usual = parent["fields"]
    lines = [f"| `{n}` | `{_shown(v)}` | `{_shown(usual[n])}` |" for n, v in row["fields"].items() if v != usual[n]]
    return "\n".join([f"| field | default | in {parent['name']} |", "|---|---|---|", *lines])


def _parent(name: str) -> str | None:
    """The method whose class that of ``name`` extends, whose fields it has."""
    bases = METHODS[name].__mro__[1:]
    return next((other for other in METHODS if METHODS[other] in bases), None)


def _rules() -> str:
    head = "| rule | from | barrier on the forget loss |\n|---|---|---|"
    rows = []
    for rule in rules():
        note = " (reproduction only)" if rule["reproduction"] else ""
        rows.append(f"| `{rule['name']}` | {_cell(rule['summary'])}{note} | {'yes' if rule['barrier'] else 'no'} |")
    return "\n".join([head, *rows])


def _paper(paper: str) -> str:
    number = paper.removeprefix("arXiv:")
    return f"[{paper}](https://arxiv.org/abs/{number})"


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    plain = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    return plain.replace("|", r"\|")


def replaced(page: str) -> str:
    """``page`` with the generated part up to date."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{generated()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text()))
