"""Flags that several verbs share, and the order in which file and flags are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from erasediff.cli.bridge import Parser, from_config, read_config
from erasediff.errors import BadInput

GIVEN = argparse.SUPPRESS
FORMATS = ("text", "json")


def add_output(parser: Parser, *, required: bool = True) -> None:
    """--output_dir and --overwrite."""
    parser.add_argument("--output_dir", metavar="DIR", default=GIVEN, help="directory that the results are written to")
    parser.add_argument(
        "--overwrite", action="store_true", default=GIVEN, help="replace what is in output_dir instead of refusing"
    )
    parser.set_defaults(_required=["output_dir"] if required else [])


def add_model_config(parser: Parser) -> None:
    """--model_config."""
    parser.add_argument(
        "--model_config",
        metavar="DIR|HUB_ID",
        default=GIVEN,
        help="for a MODEL that is one .safetensors file: the pipeline that says how it is built (default: the one of "
        "the Hub that diffusers takes for its keys)",
    )


def add_run_flags(parser: Parser) -> None:
    """What train and erase share besides the loop's settings."""
    parser.add_argument(
        "--resume_from_checkpoint",
        metavar="latest|DIR",
        default=GIVEN,
        help="go on from the newest usable checkpoint of output_dir, or from this one",
    )
    parser.add_argument("--config", metavar="FILE.yaml", default=GIVEN, help="read flags from a file first")
    parser.add_argument("--quiet", action="store_true", default=GIVEN, help="no progress bar")


def early(argv: Sequence[str], *names: str) -> dict[str, Any]:
    """The values of a few flags, wherever they stand, before the whole line can be parsed."""
    parser = Parser(add_help=False)
    for name in names:
        parser.add_argument(f"--{name}", default=GIVEN)
    return vars(parser.parse_known_args(argv)[0])


def parse(
    parser: Parser,
    argv: Sequence[str],
    entries: dict[str, Any],
    required: Sequence[str],
) -> dict[str, Any]:
    """Parse the command line over the entries of a configuration file; a flag replaces what the file says."""
    given = parser.parse(argv)
    path = given.pop("config", "")
    filed = {k: v for k, v in entries.items() if k not in given}
    merged = {**parser.parse(from_config(parser, filed, path)), **given} if filed else given
    for unwanted in ("config", "_required"):
        merged.pop(unwanted, None)
    missing = [name for name in required if merged.get(name) in (None, [])]
    if missing:
        names = [n.upper() if n in ("model", "run") else f"--{n}" for n in missing]
        raise BadInput(f"missing {', '.join(names)} (see `{parser.prog} --help`)")
    return merged


def config_entries(argv: Sequence[str], flatten: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The entries of the --config file, if one is named, after ``flatten``."""
    path = early(argv, "config").get("config")
    if path and Path(path).is_dir():
        raise BadInput(
            f"--config {path} is a directory, and it reads flags from a YAML file; what says how a single-file MODEL "
            f"is built is --model_config {path}"
        )
    return flatten(read_config(path)) if path else {}
