"""Search for an embedding that brings the class back: the class-conditional form of concept inversion.

Every weight is frozen but the target's own rows of the class table, and these are fitted to forgotten images by the
ordinary denoising loss: textual inversion (Gal et al. 2022, arXiv:2208.01618, eq. 2) turned on an erased model (Pham
et al. 2023, arXiv:2308.01508). What comes back was never gone from the weights, only from the name.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from erasediff.auditing.attacks.asking import passes, setting, success
from erasediff.auditing.attacks.base import FORGETFUL, Scene, needs
from erasediff.auditing.attacks.forgotten import noised
from erasediff.auditing.finding import Finding
from erasediff.auditing.generate import images, in_turn
from erasediff.errors import BadInput
from erasediff.families.base import AskedInWords, Model

MOST_STARTS = 3

Rows = list[Tensor]
"""For each class table the rows [K, D] of the K target classes."""


@dataclass(frozen=True)
class Search:
    """Where one search began, the rows that it found, and its denoising loss at its first and last steps."""

    start: str
    rows: Rows
    loss_before: float
    loss_after: float


@dataclass(frozen=True, kw_only=True)
class ClassEmbedding:
    """Fit the target's rows from each of ``starts`` (1 to 3) starts by ``steps`` of Adam, then ask with them.

    The best start is found on ``chosen_on`` samples and reported on ``samples`` fresh ones: the largest of several
    shares would be too high on the samples that made it the largest. A retrained model is not at 0 here: with 150
    samples two of them, .1 apart, could not be shown to be equal within .15.
    """

    starts: int = MOST_STARTS
    steps: int = 100
    batch_size: int = 32
    learning_rate: float = 0.05
    chosen_on: int = 40
    samples: int = 400

    name: ClassVar[str] = "class_embedding"
    SUMMARY: ClassVar[str] = "fit the class's embedding, all else frozen, to forgotten images and ask with it"
    PAPER: ClassVar[str] = "arXiv:2308.01508"
    SUBJECTS: ClassVar[tuple[str, ...]] = FORGETFUL

    def __post_init__(self) -> None:
        if not 1 <= self.starts <= MOST_STARTS:
            raise BadInput(f"starts must lie between 1 and {MOST_STARTS}, got {self.starts}")
        if min(self.steps, self.batch_size, self.chosen_on, self.samples) < 1:
            raise BadInput(f"steps, batch_size, chosen_on and samples must be at least 1, got {asdict(self)}")

    def refusal(self, scene: Scene) -> str | None:
        """No judge, no target class, or no table of class embeddings."""
        if isinstance(scene.model, AskedInWords):
            return "the model is asked in words: text embedding takes its place"
        missing = needs(scene, judge=True, classes=True)
        if missing is None and not scene.model.class_tables(scene.model.denoiser):
            missing = "the model looks its classes up in no table"
        return missing

    def cost(self, scene: Scene) -> int:
        """Steps forward and backward from each start, and the samples that are drawn."""
        drawn = self.starts * self.chosen_on + self.samples
        return self.starts * self.steps * self.batch_size * 3 + drawn * passes(scene)

    def run(self, scene: Scene) -> list[Finding]:
        """``attack_success_class_embedding``: share of samples, asked with the best rows, that show the target."""
        pupil = copy.deepcopy(scene.model.denoiser).eval().requires_grad_(False)
        found, shares = [], []
        for start, rows in beginnings(scene, pupil)[: self.starts]:
            found.append(self._search(scene, pupil, start, rows))
            shares.append(self._asked(scene, pupil, found[-1].rows, self.chosen_on, "choice"))
        best = max(range(len(found)), key=lambda i: [answer.mean() for answer in shares[i]])
        shown, called = self._asked(scene, pupil, found[best].rows, self.samples, "report")
        detail = asdict(self) | {
            "best_start": found[best].start,
            "called": float(called.mean()),
            "tried": [_record(one, *share) for one, share in zip(found, shares, strict=True)],
            **setting(scene),
        }
        said = {"attack": self.name, "what": self.name, "detail": detail}
        return [success(scene, shown, **said, margin=0.15, alone=0.5)]  # type: ignore[arg-type]

    def _search(self, scene: Scene, pupil: nn.Module, start: str, rows: Rows) -> Search:
        """Adam on the class tables. Only the targets are asked for, so that no other row ever has a gradient."""
        question, model = scene.question, scene.model
        place(model, pupil, question.classes, rows)
        weights = [table.weight.requires_grad_(True) for table in model.class_tables(pupil)]
        optimizer = torch.optim.Adam(weights, lr=self.learning_rate)
        losses = []
        for step in range(self.steps):
            optimizer.zero_grad(set_to_none=True)
            loss = denoising_loss(scene, pupil, self.batch_size, step)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            question.tick(self.batch_size * 3)
        for weight in weights:
            weight.requires_grad_(False).grad = None
        ends = max(1, self.steps // 10)
        curve = torch.stack(losses).cpu()
        found = [weight[list(question.classes)].clone() for weight in weights]
        return Search(start, found, float(curve[:ends].mean()), float(curve[-ends:].mean()))

    def _asked(
        self, scene: Scene, pupil: nn.Module, rows: Rows, count: int, kind: str
    ) -> tuple[NDArray[np.bool_], ...]:
        """Which of ``count`` samples drawn with ``rows`` show the target, and which the judge alone calls it."""
        question, each = scene.question, passes(scene)

        def counted(drawn: int) -> None:
            question.tick(drawn * each)

        place(scene.model, pupil, question.classes, rows)
        drawn = images(
            scene.model,
            in_turn(question.classes, count),
            count,
            seed=question.seed,
            kind=f"{self.name}/{kind}",
            guidance_scale=question.guidance_scale,
            num_inference_steps=question.suite.num_inference_steps,
            mixed_precision=question.mixed_precision,
            denoiser=pupil,
            on_batch=counted,
        )
        return question.shows_target(drawn), question.called_target(drawn)


def beginnings(scene: Scene, denoiser: nn.Module) -> list[tuple[str, Rows]]:
    """Where searches begin: the targets' own rows, the null row (else the mean of all classes'), the mean of those
    retained (else of all)."""
    question, model = scene.question, scene.model
    null, every = model.conditions.null_label, list(range(model.conditions.num_classes))
    weights = [table.weight.detach() for table in model.class_tables(denoiser)]

    def mean(rows: list[int]) -> Rows:
        return [w[rows].mean(0, keepdim=True).repeat(len(question.classes), 1) for w in weights]

    own = [w[list(question.classes)].clone() for w in weights]
    neutral = ("mean", mean(every)) if null is None else ("null", mean([null]))
    return [("own", own), neutral, ("retained", mean(question.retained(model) or every))]


@torch.no_grad()
def place(model: Model, denoiser: nn.Module, classes: tuple[int, ...], rows: Rows) -> None:
    """Write ``rows`` into the tables of ``denoiser``, a copy."""
    for table, row in zip(model.class_tables(denoiser), rows, strict=True):
        table.weight[list(classes)] = row


def denoising_loss(scene: Scene, denoiser: nn.Module, batch_size: int, step: int) -> Tensor:
    """Mean squared error of the prediction on forgotten images asked by their own class; the same for every start."""
    question, model = scene.question, scene.model
    classes, purpose = question.classes, ClassEmbedding.name
    noisy, labels = noised(scene, denoiser, batch_size, step=step, purpose=purpose, classes=classes)
    prediction = model.ask(denoiser, noisy.x_t, noisy.t, model.conditions.own(labels))
    return F.mse_loss(prediction.float(), model.noising.target(noisy))


def _record(found: Search, shown: NDArray[np.bool_], called: NDArray[np.bool_]) -> dict[str, Any]:
    losses = {"loss_before": found.loss_before, "loss_after": found.loss_after}
    return {"start": found.start, "shown": float(shown.mean()), "called": float(called.mean()), **losses}
