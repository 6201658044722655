"""``erasediff export``: write a run's model in another form."""

from __future__ import annotations

from collections.abc import Sequence

from erasediff.cli.bridge import Parser
from erasediff.cli.common import GIVEN, add_model_config, add_output, parse


def main(argv: Sequence[str]) -> int:
    made = Parser(prog="erasediff export", description="Write a run's model in another form.")
    made.add_argument("run", metavar="RUN", nargs="?", default=GIVEN, help="a run directory, or another MODEL")
    add_model_config(made)
    made.add_argument(
        "--to",
        metavar="FORM",
        default=GIVEN,
        help="full (a diffusers pipeline), lora, comfyui (a LoRA for ComfyUI) or single_file (all weights in one)",
    )
    add_output(made)
    given = parse(made, argv, {}, ["run", "to", "output_dir"])

    from erasediff.api.export import export

    print(f"written {export(**given)}")
    return 0
