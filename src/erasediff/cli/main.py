"""The command line: verbs, exit codes, one-line errors. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version

from erasediff.errors import EraseDiffError, Interrupted, listing, nearest

VERBS = {
    "demo": "train, erase and audit on handwritten digits, in about two minutes",
    "train": "train a base model, or with --exclude the retrained oracle",
    "erase": "remove a class, samples or a concept from a model",
    "audit": "measure what a model forgot and what it kept; write a report",
    "compare": "put audited runs side by side, or a plan of runs that it makes first",
    "export": "write a run's model in another form",
    "purge": "delete from a run what still holds the forgotten data",
    "list": "list methods, families, metrics, attacks, presets, rules, suites",
    "env": "print versions and machine, for bug reports",
}


def usage() -> str:
    rows = "\n".join(f"  {verb:<9}{summary}" for verb, summary in VERBS.items())
    return (
        "usage: erasediff VERB ...\n\nMake a diffusion model forget, and show that it did.\n\n"
        f"{rows}\n\n`erasediff VERB --help` says more. Exit codes: 0 done; 1 internal error; 2 bad usage or input;\n"
        "3 a --require failed; 4 stopped short (diverged, retain budget); 130 interrupted, state saved."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"erasediff {version('erasediff')}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        return fail(f"unknown verb {verb!r}{nearest(verb, VERBS)}; allowed: {listing(VERBS)}", 2)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line_warning
            return int(importlib.import_module(f"erasediff.cli.{verb}").main(rest) or 0)
    except Interrupted as error:
        return fail(f"{error}\nresume: {resume_command(arguments)}", error.exit_code, prefix="")
    except EraseDiffError as error:
        return fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return fail("interrupted", 130, prefix="")
    except BrokenPipeError:
        # Whoever read our output has gone; point stdout elsewhere so that Python's exit does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        return fail("internal error; please report it with the output of `erasediff env`", 1)


def fail(message: str, code: int, prefix: str = "error: ") -> int:
    print(f"{prefix}{message}", file=sys.stderr)
    return code


def _one_line_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    # Ours are said; the deprecations of other libraries are for developers, who run the tests.
    if category is UserWarning and not str(message).startswith("`"):
        print(f"warning: {str(message).splitlines()[0]}", file=sys.stderr)


def resume_command(arguments: Sequence[str]) -> str:
    """The same command with ``--resume_from_checkpoint latest`` in place of what it said about resuming."""
    import shlex

    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--resume_from_checkpoint":
            skip = True
        elif argument != "--overwrite" and not argument.startswith("--resume_from_checkpoint="):
            kept.append(argument)
    return shlex.join(["erasediff", *kept, "--resume_from_checkpoint", "latest"])


def run() -> None:
    """The console script."""
    hush()
    sys.exit(main())


def hush() -> None:
    """Keep other libraries from remarking, while they are imported, on packages that nothing here needs.

    Where the environment already says how talkative they are, that stands.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
