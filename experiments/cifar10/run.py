"""The CIFAR-10 experiment of EraseDiff's paper on one accelerator, in pieces of a few minutes.

    python experiments/cifar10/run.py --data cifar10.npz --output_dir runs/cifar10 --minutes 9

Every call goes on where the last one stopped, until the last line no longer begins with "again:". Stages: base,
retrained (never saw the target), control (fine-tuned), erase (methods.yaml, by seed), audit, table; all by default.
Exit codes: 0 the piece ended as it should; 2 bad input; 4 a model diverged; 130 interrupted by hand, state saved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import stages
import table
import torch
from piece import Piece, piece
from setting import FULL, SHRUNKEN, Setting, Sizes, claim, load_data

from erasediff.errors import EraseDiffError, Interrupted

STAGES: dict[str, Callable[[Setting], object]] = {
    "base": lambda s: stages.train_model(s, "base"),
    "retrained": lambda s: stages.train_model(s, "retrained"),
    "control": lambda s: stages.erase_all(s, "control"),
    "erase": lambda s: stages.erase_all(s, "erase"),
    "audit": measure.audit_all,
    "table": table.write,
}
GIVEN = ("train_steps", "judge_steps", "forget", "per_class", "unconditional", "num_inference_steps", "guidance_scale")


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the .npz that pack.py wrote")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--stage", nargs="+", choices=list(STAGES), default=list(STAGES), metavar="STAGE")
    parser.add_argument("--minutes", type=float, default=9.0, help="length of this piece; 0 for no limit")
    parser.add_argument("--target", default="class:airplane")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of control and erase")
    parser.add_argument("--methods", nargs="+", default=[], help="labels of methods.yaml; all but optional ones")
    parser.add_argument("--full", action="store_true", help=f"as many samples as the paper: {FULL}")
    parser.add_argument("--shrunken", action="store_true", help="a tiny network on a few small images, for a CPU")
    for name in GIVEN:
        kind = type(getattr(Sizes(), name))
        parser.add_argument(f"--{name}", type=kind, help=f"default {getattr(Sizes(), name)}")
    return parser.parse_args(argv)


def setting_of(arguments: argparse.Namespace, timer: Piece) -> Setting:
    """What was asked for. Raises BadInput for data or a target that cannot be used."""
    sizes = SHRUNKEN if arguments.shrunken else Sizes()
    given: dict[str, Any] = dict(FULL) if arguments.full else {}
    given |= {k: getattr(arguments, k) for k in GIVEN if getattr(arguments, k) is not None}
    made = Setting(
        place=arguments.output_dir,
        data=load_data(arguments.data, shrunken=arguments.shrunken),
        target=arguments.target,
        sizes=replace(sizes, **given),
        seeds=tuple(arguments.seeds),
        methods=tuple(arguments.methods),
        shrunken=arguments.shrunken,
        piece=timer,
    )
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # samples are drawn in fp32: TF32 does for them
    return made


def left(setting: Setting, asked: Sequence[str], done: Sequence[str]) -> list[str]:
    """What the next call has to do, stage by stage."""
    found = []
    for stage in asked:
        if stage in done:
            continue
        said = measure.left(setting) if stage == "audit" else stage if stage == "table" else stages.left(setting, stage)
        found += [said] if said else []
    return found


def work(arguments: argparse.Namespace, timer: Piece) -> str:
    """One piece of the work; returns the line to end with."""
    setting, done = setting_of(arguments, timer), []
    # A target that is no class, and methods that cannot be made, are refused before anything is written.
    planned = [setting.forgotten, *(stages.jobs(setting, group) for group in stages.GROUPS)]
    claim(setting)
    print(f"forgotten: {setting.target}; {sum(map(len, planned[1:]))} erasures planned", flush=True)
    asked = [stage for stage in STAGES if stage in arguments.stage]
    try:
        for stage in asked:
            timer.check()
            STAGES[stage](setting)
            done.append(stage)
    except (Interrupted, KeyboardInterrupt) as error:
        if not timer.over:
            raise
        print(f"the time is up{f': {error}' if str(error) else ''}", flush=True)
    waiting = left(setting, asked, done)
    return f"again: left are {', '.join(waiting)}" if waiting else f"done: {table.summary(setting)}"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parsed(argv)
    try:
        with piece(arguments.minutes) as timer:
            last = work(arguments, timer)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return Interrupted.exit_code
    except EraseDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(last)
    return 0


if __name__ == "__main__":
    sys.exit(main())
