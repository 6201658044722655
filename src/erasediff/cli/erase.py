"""``erasediff erase``: remove a class or samples from a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from erasediff.cli.bridge import Parser, add_fields, chosen_fields
from erasediff.cli.common import GIVEN, add_model_config, add_output, add_run_flags, config_entries, early, parse
from erasediff.cli.showing import add_showing
from erasediff.data.generated import Generation
from erasediff.errors import BadInput
from erasediff.methods import METHODS
from erasediff.training.config import ERASE_DEFAULTS, TrainingConfig

PREFIX = "method."
DEFAULT = "erasediff"


def parser(method: str) -> Parser:
    """The flags of erase with those of one method."""
    kind = METHODS[method]
    made = Parser(prog="erasediff erase", description="Remove the influence of a target from a diffusion model.")
    made.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default=GIVEN,
        help="pipeline directory, run directory, Hub id, FILE.safetensors",
    )
    add_model_config(made)
    made.add_argument(
        "--target",
        metavar="TARGET",
        action="append",
        default=GIVEN,
        help="what to forget: class:7, class:NAME, samples:FILE, samples:DIR, concept:TEXT (repeatable)",
    )
    made.add_argument("--data", default=GIVEN, help="digits, FILE.npz, mnist:DIR, an image folder, or a datasets id")
    made.add_argument(
        "--method", metavar="NAME", default=GIVEN, help=f"one of {', '.join(METHODS)} (default: {DEFAULT})"
    )
    made.add_argument(
        "--preset",
        metavar="NAME",
        default=GIVEN,
        help="style, object, person or nudity: what to say and train for such a concept, where no flag says otherwise",
    )
    made.add_argument(
        "--prompt_template",
        metavar="TEXT",
        default=GIVEN,
        help="for models asked in words: how a class or caption is said, 'a photo of a {}' (default: '{}')",
    )
    add_showing(made)
    made.add_argument(
        "--init", metavar="NAME", default=GIVEN, help="start from what this method without steps edits, such as uce"
    )
    made.add_argument("--dry_run", action="store_true", default=GIVEN, help="check everything, print the plan, stop")
    add_output(made)
    add_run_flags(made)
    add_fields(made, kind, f"method {method} ({kind.PAPER})", prefix=PREFIX)
    by_family = dict.fromkeys(("learning_rate", "adam_beta1", "adam_beta2", "forget_batch_size"), "by family")
    by_family["max_train_steps"] = f"{ERASE_DEFAULTS.max_train_steps}, or as many for each class, by family"
    add_fields(made, TrainingConfig, "the loop", defaults=ERASE_DEFAULTS, chosen=by_family)
    add_fields(made, Generation, "images that the model draws to show a concept, or what is to be kept")
    return made


def flatten(entries: dict[str, Any]) -> dict[str, Any]:
    """``method: {name: erasediff, eta: 0.2}`` -> ``method: erasediff``, ``method.eta: 0.2``."""
    given = entries.get("method", DEFAULT)
    method = given if isinstance(given, dict) else {"name": given}
    name = method.get("name", DEFAULT)
    if not isinstance(name, str):
        raise BadInput(f"--config: method must be a name, or a mapping with a name, got {given!r}")
    fields = {f"{PREFIX}{k}": v for k, v in method.items() if k != "name"}
    return {**entries, "method": name, **fields}


def main(argv: Sequence[str]) -> int:
    entries = config_entries(argv, flatten)
    filed = entries.get("method", DEFAULT)
    method = early(argv, "method").get("method", filed)
    if method != filed:  # another method than the file's: the file's fields are not its own
        entries = {k: v for k, v in entries.items() if not k.startswith(PREFIX)}
    kind = METHODS[method]
    required = ["model", "target", "output_dir"]
    given = parse(parser(method), argv, entries, required)
    fields = {**chosen_fields(TrainingConfig, given), **chosen_fields(Generation, given)}
    chosen = kind(**chosen_fields(kind, given, PREFIX))
    rest = {k: v for k, v in given.items() if k not in fields and not k.startswith(PREFIX) and k != "method"}
    model = rest.pop("model")
    if not model:
        raise BadInput("MODEL is empty; give a pipeline directory or a run directory")

    from erasediff.api.erase import erase

    run = erase(model, method=chosen, **rest, **fields)
    if run.record["status"] == "planned":
        print(json.dumps(run.record, indent=2, default=str))
        return 0
    print(f"{run.record['steps']} steps, {run.record['stopped']['detail']}; model in {run.output}")
    return 4 if run.stopped_short else 0
