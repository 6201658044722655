"""An audit of a concept without images: what is asked for in words, and nothing real to compare it with.

Any text-to-image pipeline can be asked so. A CLIP model can say what the answers show; a verdict takes real images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from erasediff.api.showing import Showing, Wishes
from erasediff.data.images import ImageData
from erasediff.data.targets import Concept, Split, Target
from erasediff.errors import BadInput
from erasediff.families.base import AskedInWords, Model
from erasediff.report.facts import SPOKEN


def is_spoken(model: Model, wanted: Sequence[Target]) -> bool:
    """Whether words are enough to ask ``model`` for the targets."""
    return isinstance(model, AskedInWords) and all(isinstance(t, Concept) for t in wanted)


def spoken(model: Model, wanted: Sequence[Target], template: str | None) -> ImageData:
    """No images, and as classes the prompts of the concepts and those that the text encoder finds most like them."""
    planned = Showing(model, wanted, Wishes(prompt_template=template), SPOKEN).shown(None, None).planned(None)
    images = torch.empty(0, *model.image_shape, dtype=torch.uint8)
    nothing = torch.zeros(0, dtype=torch.bool)
    names = tuple(p for p in planned.class_names if p)
    return replace(planned, spec=SPOKEN, images=images, labels=None, class_names=names, names=(), held_out=nothing)


def asked(model: Model, data: ImageData) -> Any:
    """``model`` with the prompts of ``data`` as its classes. Raises BadInput for one that is not asked in words."""
    if not isinstance(model, AskedInWords):
        raise BadInput(f"family {model.family} is asked by class number, not in words; give data")
    return model.with_prompts(data.class_names)


def sides(wanted: Sequence[Target], data: ImageData) -> Split:
    """Which prompts mean the targets; no sample is on either side."""
    classes = tuple(sorted({c for t in wanted for c in data.meant[str(t)]}))
    none = torch.zeros(0, dtype=torch.long)
    return Split(none, none, classes)
