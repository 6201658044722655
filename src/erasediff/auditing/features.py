"""Named feature spaces in which distributions of images are compared. A distance means nothing without this name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from erasediff.auditing.classifier import Judge
from erasediff.auditing.clip import Clip
from erasediff.auditing.zero_shot import ZeroShot
from erasediff.errors import BadInput, unknown

CLIP = "clip"

AnyJudge = Judge | ZeroShot
"""Who says what an image shows: a classifier trained on the data, or CLIP asked in words."""
Extractor = Callable[[Tensor], Tensor]
"""Images [N, C, H, W] in [-1, 1] -> features [N, D], float32 on the CPU."""


def classifier(judge: AnyJudge | None, clip: Clip | None = None) -> Extractor:  # noqa: ARG001
    """The judge's penultimate layer: what matters for telling the classes of this very data apart."""
    if judge is None:
        raise BadInput("features 'classifier' need a trained classifier; give one, or use features 'pixels'")
    return judge.features


def pixels(judge: AnyJudge | None, clip: Clip | None = None) -> Extractor:  # noqa: ARG001
    """The image itself, flattened: looks at no judge, and is fair only for tiny images."""
    return lambda images: images.detach().float().flatten(start_dim=1).cpu()


def embeddings(judge: AnyJudge | None, clip: Clip | None = None) -> Extractor:  # noqa: ARG001
    """CLIP's image embeddings, not normalised: what a caption could say of an image."""
    if clip is None:
        raise BadInput("features 'clip' need a CLIP model; give --clip DIR")
    return clip.images


EXTRACTORS: dict[str, Callable[[AnyJudge | None, Clip | None], Extractor]] = {
    "classifier": classifier,
    "pixels": pixels,
    CLIP: embeddings,
}


def extractor(name: str, judge: AnyJudge | None = None, clip: Clip | None = None) -> Extractor:
    """The extractor called ``name`` in :data:`EXTRACTORS`. Raises BadInput for an unknown name or a missing model."""
    if name not in EXTRACTORS:
        raise unknown("features", name, EXTRACTORS)
    return EXTRACTORS[name](judge, clip)
