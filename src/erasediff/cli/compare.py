"""``erasediff compare``: put several audited runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from erasediff.cli.bridge import Parser
from erasediff.cli.common import GIVEN, add_output, parse


def main(argv: Sequence[str]) -> int:
    made = Parser(prog="erasediff compare", description="Put several audited runs side by side.")
    made.add_argument("run", metavar="RUN", nargs="*", default=GIVEN, help="audit directories, or runs with an audit/")
    add_output(made)
    given = parse(made, argv, {}, ["run", "output_dir"])

    from erasediff.api.compare import compare
    from erasediff.report.tables import markdown

    found = compare(given.pop("run"), **given)
    print(markdown(found.result))
    print(f"report: {given['output_dir']}/report.html")
    return 0
