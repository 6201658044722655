"""``erasediff train``: a base model from data, or with --exclude the retrained oracle."""

from __future__ import annotations

from collections.abc import Sequence

from erasediff.cli.bridge import Parser, add_fields, chosen_fields
from erasediff.cli.common import GIVEN, add_output, add_run_flags, config_entries, parse
from erasediff.families.architecture import Architecture
from erasediff.training.config import TRAIN_DEFAULTS, TrainingConfig


def parser() -> Parser:
    made = Parser(prog="erasediff train", description="Train a diffusion model on images.")
    made.add_argument("--data", default=GIVEN, help="digits, FILE.npz, mnist:DIR, an image folder, or a datasets id")
    made.add_argument(
        "--exclude",
        metavar="TARGET",
        action="append",
        default=GIVEN,
        help="leave these samples out: class:7, samples:FILE (repeatable)",
    )
    made.add_argument(
        "--null_share",
        type=float,
        default=GIVEN,
        help="share of samples whose condition is dropped, for classifier-free guidance (default: 0.1)",
    )
    add_output(made)
    add_run_flags(made)
    add_fields(made, Architecture, "the model")
    add_fields(made, TrainingConfig, "the loop", defaults=TRAIN_DEFAULTS)
    return made


def main(argv: Sequence[str]) -> int:
    made = parser()
    given = parse(made, argv, config_entries(argv, dict), ["data", "output_dir"])
    architecture = Architecture(**chosen_fields(Architecture, given))
    fields = chosen_fields(TrainingConfig, given)
    rest = {k: v for k, v in given.items() if k not in {*Architecture.__dataclass_fields__, *fields}}

    from erasediff.api.train import train

    run = train(architecture=architecture, **rest, **fields)
    print(f"{run.record['steps']} steps, {run.record['stopped']['detail']}; model in {run.output}")
    return 4 if run.stopped_short else 0
