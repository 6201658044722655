"""What is asked of every subject alike: the data, the instruments, the budgets, the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from erasediff.auditing.clip import Clip
from erasediff.auditing.features import CLIP, AnyJudge, extractor
from erasediff.auditing.metrics.balls import near_real
from erasediff.auditing.suite import Suite
from erasediff.data.images import ImageData
from erasediff.errors import BadInput
from erasediff.families.base import Model
from erasediff.families.precision import FULL


@dataclass(frozen=True, kw_only=True)
class Question:
    """One audit's question. ``forget``, ``retain``: data indices; ``classes``: those that were to be forgotten.

    ``mixed_precision`` (no, bf16 or fp16): in which images are drawn and copies trained; scores and instruments are
    always fp32. ``gone``: classes that had been forgotten before: neither asked about nor judged as retained.
    ``clip``: a CLIP model, where one was given, for CLIP scores and features.
    """

    target: str
    goal: str
    data: ImageData
    forget: Tensor
    retain: Tensor
    classes: tuple[int, ...]
    judge: AnyJudge | None
    features: str
    suite: Suite
    guidance_scale: float
    seed: int
    mixed_precision: str = FULL
    gone: tuple[int, ...] = ()
    clip: Clip | None = None
    say: Callable[[str], None] = lambda text: None
    tick: Callable[[int], object] = lambda count: None

    def retained(self, model: Model) -> list[int]:
        """The classes of the data that are asked for and judged as retained; none of an unconditional model."""
        if not model.conditions.num_classes:
            return []
        there = range(len(self.data.class_names)) if self.data.labels is None else self.data.labels.unique().tolist()
        # The null prompt is no class, though images may be of it; nor can a class be judged that has no image.
        return [c for c in there if c < model.conditions.num_classes and c not in {*self.classes, *self.gone}]

    def called_target(self, drawn: Tensor) -> NDArray[np.bool_]:
        """Which images [N, C, H, W] the judge calls the target."""
        if self.judge is None:
            raise BadInput("without a judge nobody can say what an image shows; give data with labels, or --classifier")
        return self.is_target(self.judge.probabilities(drawn))

    def is_target(self, probabilities: Tensor) -> NDArray[np.bool_]:
        """Which images are called the target, by what the judge said of them [N, K]."""
        return np.isin(probabilities.argmax(1).numpy(), self.classes)

    def shows_target(self, drawn: Tensor, called: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Which images [N, C, H, W] the judge calls the target *and* that lie near a real image of it.

        Near: within the ball of a real image that reaches to its fifth neighbour (Kynkaanniemi et al. 2019,
        arXiv:1904.06991, eq. 1). Noise that happens to be called the target does not count. Where no real image of it
        is there, nothing says what is near, and the judge's call is all there is. ``called``: that call, where it is
        known already.
        """
        called = self.called_target(drawn) if called is None else called
        return called & near_real(self.real_forget, self.extract(drawn)) if self.has_images else called

    @property
    def has_images(self) -> bool:
        """Whether there are real images of the target; a concept can be asked for in words alone."""
        return len(self.forget) > 0

    @cached_property
    def extract(self) -> Callable[[Tensor], Tensor]:
        """Images [N, C, H, W] -> features [N, D] in the space ``features``."""
        return extractor(self.features, self.judge, self.clip)

    @property
    def space(self) -> str:
        """The name of the feature space as it stands beside numbers: CLIP's with its name and hash."""
        named = self.features == CLIP and self.clip is not None
        return f"{CLIP} {self.clip.title}" if named else self.features  # type: ignore[union-attr]

    @cached_property
    def real_forget(self) -> Tensor:
        """Features [N, D] of the forget set."""
        return self.extract(self.data.floats(self.forget))

    @cached_property
    def real_retain(self) -> Tensor:
        """Features [M, D] of the retain set."""
        return self.extract(self.data.floats(self.retain))

    @cached_property
    def held_out(self) -> Tensor:
        """Data indices [M] that no model was trained on and that are like the forget set.

        Of the target's classes where the target is a class, else all; never a copy of a forgotten image.
        """
        forgotten = {self._bytes(i) for i in self.forget.tolist()}
        rows = [i for i in self.data.held_out.nonzero()[:, 0].tolist() if self._bytes(i) not in forgotten]
        if self.classes and self.data.labels is not None:
            rows = [i for i in rows if int(self.data.labels[i]) in self.classes]
        return self.data.images.new_tensor(rows, dtype=self.forget.dtype)

    @cached_property
    def distinct(self) -> Tensor:
        """Data indices of the forget set, one for each distinct image."""
        first = {self._bytes(i): i for i in reversed(self.forget.tolist())}
        return self.forget.new_tensor(sorted(first.values()))

    def _bytes(self, index: int) -> bytes:
        return bytes(self.data.images[index].numpy().tobytes())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the question that an answer depends on, budgets left out."""
        parts = [self.target, self.data.fingerprint(), self.features, self.guidance_scale, self.seed]
        digest = hashlib.sha256(repr([*parts, self.classes, self.gone]).encode())
        if self.mixed_precision != FULL:  # answers from before there was a choice are still good
            digest.update(self.mixed_precision.encode())
        for indices in (self.forget, self.retain):
            digest.update(indices.numpy().tobytes())
        if self.judge is not None:
            digest.update(self.judge.fingerprint.encode())
        if self.clip is not None and self.features == CLIP:
            digest.update(self.clip.fingerprint.encode())
        return digest.hexdigest()
