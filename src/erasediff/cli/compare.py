"""``erasediff compare``: put methods side by side, from audited runs or from a plan."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from erasediff.cli.bridge import PARSERS, Parser
from erasediff.cli.common import GIVEN, add_output, parse
from erasediff.errors import Interrupted


def parser() -> Parser:
    made = Parser(
        prog="erasediff compare",
        description="Put methods side by side: audited runs, or a plan (FILE.yaml) whose runs are made first.\n"
        "A plan that was interrupted goes on where it stopped: give the same command again.",
    )
    made.add_argument(
        "run",
        metavar="RUN",
        nargs="*",
        default=GIVEN,
        help="audit directories, or runs with an audit/; or one plan, FILE.yaml",
    )
    made.add_argument(
        "--reference", metavar="LABEL", default=GIVEN, help="what the others are compared with (default: erasediff)"
    )
    made.add_argument(
        "--max_runs",
        metavar="N",
        type=PARSERS[int],
        default=GIVEN,
        help="with a plan: stop after N new runs and compare what is there",
    )
    made.add_argument("--quiet", action="store_true", default=GIVEN, help="say nothing while working")
    add_output(made)
    return made


def main(argv: Sequence[str]) -> int:
    given = parse(parser(), argv, {}, ["run", "output_dir"])

    from erasediff.api.compare import compare
    from erasediff.report.comparison import terminal_lines

    def say(text: str) -> None:
        if not given.get("quiet"):
            print(text, file=sys.stderr)

    try:
        found = compare(given.pop("run"), say=say, **given)
    except (Interrupted, KeyboardInterrupt) as error:
        # A comparison goes on by the same command, not by a flag.
        print(f"{str(error) or 'interrupted'}\ngo on: {shlex.join(['erasediff', 'compare', *argv])}", file=sys.stderr)
        return Interrupted.exit_code
    for line in terminal_lines(found):
        print(line)
    print(f"report: {given['output_dir']}/report.html")
    return 0
