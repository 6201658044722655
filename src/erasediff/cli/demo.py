"""``erasediff demo``: train, erase and audit on handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence

from erasediff.cli.bridge import Parser
from erasediff.cli.common import GIVEN, add_output, parse


def main(argv: Sequence[str]) -> int:
    made = Parser(
        prog="erasediff demo",
        description="Train a diffusion model on handwritten digits, erase the 7, audit the result.",
    )
    made.add_argument("--seed", type=int, default=GIVEN, help="seed of everything random (default: 0)")
    made.add_argument("--quiet", action="store_true", default=GIVEN, help="no progress bars")
    add_output(made)
    given = parse(made, argv, {}, ["output_dir"])

    from erasediff.api.demo import demo
    from erasediff.report.tables import summary_lines

    done = demo(**given, say=lambda text: print(text, flush=True))
    print()
    for line in summary_lines(done.result):
        print(line)
    print(f"report: {given['output_dir']}/audit/report.html")
    return 0
