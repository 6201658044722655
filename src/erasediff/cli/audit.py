"""``erasediff audit``: measure what a model forgot and what it kept; write a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from erasediff.auditing.result import parse_requirement
from erasediff.cli.bridge import Parser
from erasediff.cli.common import GIVEN, add_model_config, add_output, config_entries, parse

OTHERS = {
    "base": "the model before erasing",
    "control": "the model fine-tuned on the retain set only",
    "retrained": "a model trained without the target (the oracle)",
}


def parser() -> Parser:
    made = Parser(prog="erasediff audit", description="Measure what a model forgot and what it kept.")
    made.add_argument("model", metavar="MODEL", nargs="?", default=GIVEN, help="the erased model: a run or a pipeline")
    for name, text in OTHERS.items():
        made.add_argument(f"--{name}", metavar="MODEL", default=GIVEN, help=text)
    add_model_config(made)
    made.add_argument(
        "--target",
        action="append",
        default=GIVEN,
        help="what was to be forgotten (default: what the run says; repeatable)",
    )
    made.add_argument("--data", default=GIVEN, help="real data (default: what the run says)")
    made.add_argument("--goal", metavar="data|concept", default=GIVEN, help="what was asked for (default: data)")
    made.add_argument("--suite", metavar="quick|standard|full", default=GIVEN, help="how much (default: quick)")
    made.add_argument(
        "--attacks",
        metavar="NAME",
        nargs="+",
        default=GIVEN,
        help="these instead of the suite's (erasediff list attacks), or none",
    )
    made.add_argument("--classifier", metavar="DIR", default=GIVEN, help="a judge saved by an earlier audit, or clip")
    made.add_argument(
        "--features", metavar="NAME", default=GIVEN, help="classifier, pixels or clip (default: classifier)"
    )
    made.add_argument(
        "--clip",
        metavar="DIR|HUB_ID",
        default=GIVEN,
        help="a CLIP model: CLIP scores, --classifier clip, --features clip",
    )
    made.add_argument("--guidance_scale", type=float, default=GIVEN, help="of conditional samples (default: 1.5)")
    made.add_argument(
        "--mixed_precision",
        metavar="no|bf16|fp16",
        default=GIVEN,
        help="of the denoiser where images are drawn and copies trained further; scores stay fp32 (default: no)",
    )
    made.add_argument(
        "--prompt_template",
        metavar="TEXT",
        default=GIVEN,
        help="for models asked in words: other words than those of the erasure, '{} on a table'",
    )
    made.add_argument("--seed", type=int, default=GIVEN, help="seed of every sample (default: 0)")
    _add_result_flags(made)
    add_output(made)
    return made


def _add_result_flags(made: Parser) -> None:
    """What becomes of the answers."""
    made.add_argument(
        "--require",
        metavar="'NAME<=X'",
        action="append",
        default=GIVEN,
        help="exit 3 unless this holds of the erased model, for example 'forget_rate<=0.02' (repeatable)",
    )
    made.add_argument(
        "--cache_dir", metavar="DIR", default=GIVEN, help="where answers are kept (default: cache in output_dir)"
    )
    made.add_argument(
        "--show_forget_images",
        action="store_true",
        default=GIVEN,
        help="show drawn copies of forgotten samples in the report of a target of samples",
    )
    made.add_argument(
        "--request",
        metavar="TEXT",
        default=GIVEN,
        help="words of the deletion request; writes a deletion record (record.json, record.html) as well",
    )
    made.add_argument("--config", metavar="FILE.yaml", default=GIVEN, help="read flags from a file first")
    made.add_argument("--quiet", action="store_true", default=GIVEN, help="say nothing while working")


def main(argv: Sequence[str]) -> int:
    given = parse(parser(), argv, config_entries(argv, dict), ["model", "output_dir"])
    require = given.pop("require", [])
    for line in require:
        parse_requirement(line)  # before an hour of measuring, not after

    from erasediff.api.audit import audit
    from erasediff.report.tables import summary_lines

    quiet = given.get("quiet", False)
    done = audit(given.pop("model"), say=lambda text: quiet or print(text, file=sys.stderr), **given)
    for line in summary_lines(done.result):
        print(line)
    print(f"report: {given['output_dir']}/report.html")
    done.require(*require)
    return 0
