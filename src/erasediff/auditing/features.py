"""Named feature spaces in which distributions of images are compared. A distance means nothing without this name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from erasediff.auditing.classifier import Judge
from erasediff.errors import BadInput, unknown

Extractor = Callable[[Tensor], Tensor]
"""Images [N, C, H, W] in [-1, 1] -> features [N, D], float32 on the CPU."""


def classifier(judge: Judge | None) -> Extractor:
    """The judge's penultimate layer: what matters for telling the classes of this very data apart."""
    if judge is None:
        raise BadInput("features 'classifier' need a trained classifier; give one, or use features 'pixels'")
    return judge.features


def pixels(judge: Judge | None) -> Extractor:  # noqa: ARG001
    """The image itself, flattened: looks at no judge, and is fair only for tiny images."""
    return lambda images: images.detach().float().flatten(start_dim=1).cpu()


EXTRACTORS: dict[str, Callable[[Judge | None], Extractor]] = {"classifier": classifier, "pixels": pixels}


def extractor(name: str, judge: Judge | None = None) -> Extractor:
    """The extractor called ``name`` in :data:`EXTRACTORS`. Raises BadInput for an unknown name or a missing judge."""
    if name not in EXTRACTORS:
        raise unknown("features", name, EXTRACTORS)
    return EXTRACTORS[name](judge)
