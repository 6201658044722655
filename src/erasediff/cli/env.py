"""``erasediff env``: versions and machine, for bug reports."""

from __future__ import annotations

import json
from collections.abc import Sequence

from erasediff.cli.bridge import Parser
from erasediff.cli.common import FORMATS
from erasediff.errors import check_one_of
from erasediff.provenance import machine, versions


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="erasediff env", description="Versions and machine, for bug reports.")
    parser.add_argument("--format", metavar="text|json", default="text", help="json for programs (default: text)")
    form = parser.parse(argv)["format"]
    check_one_of("--format", form, FORMATS)
    import torch

    found = {
        **versions(),
        **machine(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    if form == "json":
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name}: {value if value is not None else 'none'}")
    return 0
