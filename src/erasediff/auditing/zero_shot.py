"""A judge that was not trained: CLIP asked which of several texts an image goes with (arXiv:2103.00020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from erasediff.auditing.cache import key_of
from erasediff.auditing.clip import Clip
from erasediff.errors import BadInput, listing

SHARPNESS = 100.0
"""What cosines are multiplied with before the softmax: the scale at which CLIP's training stops."""
TEMPLATE = "a photo of a {}"
HELD_OUT = 2000
"""At most so many real images are judged to learn how far the judge can be trusted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ZeroShot:
    """Like :class:`erasediff.auditing.classifier.Judge`. Class c is what goes best with ``texts[c]``."""

    clip: Clip
    texts: tuple[str, ...]
    class_names: tuple[str, ...]
    held_out_accuracy: float = 0.0
    held_out_n: int = 0

    def __post_init__(self) -> None:
        if len(self.texts) < 2 or len(self.texts) != len(self.class_names):
            raise BadInput(
                "a zero-shot judge tells one class from another: it needs at least two, with a text for each; got "
                f"{len(self.class_names)} ({listing(self.class_names)}) and {len(self.texts)} texts"
            )
        if twice := sorted({t for t in self.texts if self.texts.count(t) > 1}):
            raise BadInput(f"a zero-shot judge cannot tell classes of the same text apart: {twice[0]!r}")

    @property
    def num_classes(self) -> int:
        return len(self.texts)

    @property
    def name(self) -> str:
        return f"CLIP zero-shot, {self.clip.title}, asked {self.texts[0]!r} and {self.num_classes - 1} more"

    @property
    def fingerprint(self) -> str:
        """A hash of all that its answers depend on."""
        return key_of(self.clip.fingerprint, list(self.texts), SHARPNESS)

    def probabilities(self, images: Tensor) -> Tensor:
        """softmax(100 cos) over the texts, float32 [N, K] on the CPU, of images [N, C, H, W] in [-1, 1]."""
        cosines = torch.nn.functional.normalize(self.clip.images(images)) @ self.clip.texts(self.texts).T
        return (SHARPNESS * cosines).softmax(dim=1)

    def features(self, images: Tensor) -> Tensor:
        """CLIP's embeddings, float32 [N, D] on the CPU."""
        return self.clip.images(images)

    def trusted(self, images: Tensor, labels: Tensor) -> ZeroShot:
        """The same with its accuracy on real ``images`` [N, C, H, W] in [-1, 1] of the classes ``labels`` [N]."""
        if not len(images):
            return self
        right = self.probabilities(images).argmax(1) == labels.cpu()
        return replace(self, held_out_accuracy=float(right.double().mean()), held_out_n=len(right))


def of_classes(clip: Clip, class_names: Sequence[str], template: str = TEMPLATE) -> ZeroShot:
    """A judge of the classes of labelled data; ``template`` holds ``{}`` where the class's name goes."""
    texts = tuple(template.replace("{}", name) for name in class_names)
    return ZeroShot(clip=clip, texts=texts, class_names=tuple(class_names))


def held_out_rows(held_out: Tensor) -> Tensor:
    """Indices of at most :data:`HELD_OUT` held-out samples, evenly spaced; ``held_out`` is a mask [N]."""
    rows = held_out.nonzero()[:, 0]
    if len(rows) <= HELD_OUT:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, HELD_OUT).round().long()]
