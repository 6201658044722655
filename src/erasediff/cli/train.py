"""``erasediff train``: a base model from images, captioned or not; with --exclude the retrained oracle."""

from __future__ import annotations

from collections.abc import Sequence

from erasediff.cli.bridge import Parser, add_fields, chosen_fields
from erasediff.cli.common import GIVEN, add_model_config, add_output, add_run_flags, config_entries, parse
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
        help="leave these samples out: class:7, samples:FILE, concept:TEXT (repeatable)",
    )
    _add_words(made)
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


def _add_words(made: Parser) -> None:
    made.add_argument(
        "--pretrained_model_name_or_path",
        metavar="MODEL",
        default=GIVEN,
        help="train this model's denoiser further (pipeline directory, run directory, Hub id) instead of a new one",
    )
    add_model_config(made)
    made.add_argument(
        "--caption_column",
        metavar="COLUMN",
        default=GIVEN,
        help="train a text-to-image model on the captions in this column: a key of metadata.jsonl (text), a text "
        "array of the .npz, a column of the datasets id",
    )
    made.add_argument(
        "--caption_template",
        metavar="TEXT",
        action="append",
        default=GIVEN,
        help="train a text-to-image model on captions made of class names, 'a photo of a {}' (repeatable: each image "
        "gets one of them)",
    )


def main(argv: Sequence[str]) -> int:
    made = parser()
    given = parse(made, argv, config_entries(argv, dict), ["data", "output_dir"])
    built = chosen_fields(Architecture, given)
    architecture = Architecture(**built) if built else None
    fields = chosen_fields(TrainingConfig, given)
    rest = {k: v for k, v in given.items() if k not in {*Architecture.__dataclass_fields__, *fields}}

    from erasediff.api.train import train

    run = train(architecture=architecture, **rest, **fields)
    print(f"{run.record['steps']} steps, {run.record['stopped']['detail']}; model in {run.output}")
    return 4 if run.stopped_short else 0
