"""Flags that say what shows a concept, and what is to be kept."""

from __future__ import annotations

from erasediff.cli.bridge import Parser
from erasediff.cli.common import GIVEN


def add_showing(parser: Parser) -> None:
    """--anchor, --images, --prompts, --retain_images, --retain_prompts, --generated, --skip_unreadable."""
    group = parser.add_argument_group(
        "concepts, for models asked in words",
        "--anchor, --images and --prompts: once for all concepts, or as often as there are concepts, in their order. "
        "Without --data, --images and --prompts the model draws what it means by a concept.",
    )
    group.add_argument(
        "--anchor", metavar="TEXT", action="append", default=GIVEN, help="what comes in the target's place (repeatable)"
    )
    group.add_argument(
        "--images",
        metavar="DIR",
        action="append",
        default=GIVEN,
        help="images of the concept, of any size; captions from metadata.jsonl, else the prompts (repeatable)",
    )
    group.add_argument(
        "--prompts",
        metavar="FILE",
        action="append",
        default=GIVEN,
        help="prompts of the concept, one a line; without --images the model draws them (repeatable)",
    )
    group.add_argument("--retain_images", metavar="DIR", default=GIVEN, help="images of what is to be kept")
    group.add_argument(
        "--retain_prompts",
        metavar="FILE|TEXT",
        nargs="+",
        default=GIVEN,
        help="prompts of what is to be kept, drawn by the model (default, without --data and --retain_images: common "
        "prompts like the concept, the anchor and the empty prompt)",
    )
    group.add_argument(
        "--generated",
        metavar="DIR",
        default=GIVEN,
        help="a run whose drawn images are taken over where they are the same",
    )
    group.add_argument(
        "--skip_unreadable", action="store_true", default=GIVEN, help="leave unreadable images out, and count them"
    )
