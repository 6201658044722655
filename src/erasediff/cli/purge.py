"""``erasediff purge``: delete from a run what still holds the forgotten data."""

from __future__ import annotations

from collections.abc import Sequence

from erasediff.cli.bridge import Parser


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="erasediff purge",
        description="Delete checkpoints (weights on the way, optimiser moments, masks) and caches of a finished run. "
        "The base model is named, not deleted: it lies outside the run and still knows the target.",
    )
    parser.add_argument("run", metavar="RUN", help="a run directory")
    given = parser.parse(argv)

    from erasediff.api.purge import purge

    removed, notes = purge(given["run"])
    for path in removed:
        print(f"removed {path}")
    if not removed:
        print("nothing to remove")
    for note in notes:
        print(note)
    return 0
