"""Membership inference: can the forget set be told from held-out images of the same kind by asking the denoiser?

Success of an erasure is not an AUC of 0.5 but that of a model retrained without the samples (SCIENCE.md section 3):
an AUC far *below* one half gives the erased model away just as well. The scores are in
:mod:`erasediff.auditing.attacks.scores`; the true-positive rate at 1 % false positives is that of Carlini et al. 2022
(arXiv:2112.03570).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_curve
from torch import Tensor

from erasediff.auditing.attacks.base import BASE, CONTROL, FEWEST_SAMPLES, FORGETFUL, Scene, needs
from erasediff.auditing.attacks.scores import AT, BATCH, QUERIES, SCORES
from erasediff.auditing.finding import Evidence, Finding, rows_of
from erasediff.auditing.question import Question
from erasediff.auditing.result import Measurement
from erasediff.auditing.statistics import auc_interval, placements, resample_interval
from erasediff.errors import BadInput, check_one_of
from erasediff.randomness import generator

FALSE_POSITIVES = 0.01
MARGIN = 0.1
LATEST = 0.9  # as a fraction of the time steps; close to 1 nothing of the image is left


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Score forgotten and held-out images by ``kinds``; at most ``images`` of each, at the time steps ``at``.

    ``at``: fractions of the model's time steps, in (0, 0.9], for every kind but the loss, which spreads its own.
    Raises BadInput for an unknown kind or a budget that asks for nothing.
    """

    kinds: tuple[str, ...] = tuple(SCORES)
    images: int = 500
    at: tuple[float, ...] = AT

    name: ClassVar[str] = "membership"
    SUMMARY: ClassVar[str] = "tell forgotten from held-out images by loss, PIA, SecMI and SimA"
    PAPER: ClassVar[str] = "arXiv:2305.18355, arXiv:2302.01316, arXiv:2509.25003"
    SUBJECTS: ClassVar[tuple[str, ...]] = (*FORGETFUL, BASE, CONTROL)

    def __post_init__(self) -> None:
        for kind in self.kinds:
            check_one_of("kind of membership score", kind, SCORES)
        if not self.kinds or self.images < FEWEST_SAMPLES:
            raise BadInput(
                f"membership needs a kind and at least {FEWEST_SAMPLES} images; got {self.kinds} and {self.images}"
            )
        if not self.at or not all(0 < fraction <= LATEST for fraction in self.at):
            raise BadInput(f"membership's time steps are fractions in (0, {LATEST}], at least one; got {self.at}")

    def refusal(self, scene: Scene) -> str | None:
        return needs_images(scene)

    def cost(self, scene: Scene) -> int:
        queries = sum(QUERIES[kind](scene.model, self.at) for kind in self.kinds)
        return queries * sum(map(len, chosen(scene.question, self.images)))

    def run(self, scene: Scene) -> list[Finding]:
        found = []
        for kind in self.kinds:
            members, others = (self._scored(scene, kind, rows) for rows in chosen(scene.question, self.images))
            # Equality is asked of the steadiest score, the first: of few images two retrained models differ in others.
            said = {"attack": self.name, "kind": kind, "budget": self._budget(), "needed": kind == self.kinds[0]}
            found += told_apart(scene, members, others, **said)  # type: ignore[arg-type]
        return found

    def _budget(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "kinds"}

    def _scored(self, scene: Scene, kind: str, rows: Tensor) -> NDArray[np.float64]:
        question, scores = scene.question, []
        for some in rows.split(BATCH):
            images, labels = of(question, some)
            scores.append(SCORES[kind](scene.model, images, labels, seed=question.seed, at=self.at))
            question.tick(len(some) * QUERIES[kind](scene.model, self.at))
        return np.concatenate(scores)


def needs_images(scene: Scene, **wanted: bool) -> str | None:
    """Why members cannot be told from others here, or ``None``; ``wanted`` as in :func:`needs`."""
    if scene.model.conditions.num_classes and scene.question.data.labels is None:
        return "the model is asked by class label, and the data has no labels"
    return needs(scene, held_out=True, enough=True, **wanted)


def chosen(question: Question, most: int) -> tuple[Tensor, Tensor]:
    """Data indices of at most ``most`` forgotten and as many held-out images, the same for every subject."""
    found = []
    for role, rows in (("members", question.distinct), ("others", question.held_out)):
        order = torch.randperm(len(rows), generator=generator(question.seed, 0, f"membership/{role}"))
        found.append(rows[order[:most].sort().values])
    return found[0], found[1]


def of(question: Question, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Images [N, C, H, W] in [-1, 1] and labels [N] (``None`` where the data has none) of data indices."""
    labels = question.data.labels
    return question.data.floats(rows), None if labels is None else labels[rows]


def told_apart(
    scene: Scene,
    members: NDArray[np.float64],
    others: NDArray[np.float64],
    *,
    attack: str,
    kind: str,
    budget: Mapping[str, Any],
    needed: bool = False,
) -> list[Finding]:
    """``mia_auc_<kind>``, with the scores as evidence, and ``mia_tpr_at_1fpr_<kind>``.

    ``members`` [N], ``others`` [M]: scores, higher means "was trained on"; ``needed``: see :class:`Evidence`. Raises
    BadInput if one is empty.
    """
    if not len(members) or not len(others):
        raise BadInput(
            f"membership compares forgotten samples with held-out ones; got {len(members)} and {len(others)}"
        )
    seed = scene.question.seed
    caught = _true_positives(members, others)
    found = {
        "mia_auc": (float(placements(members, others)[0].mean()), auc_interval(members, others)),
        "mia_tpr_at_1fpr": (caught, _caught_interval(members, others, caught, scene.question)),
    }
    auc, rate = (
        Measurement(
            name=f"{name}_{kind}",
            group="membership",
            subject=scene.subject,
            value=value,
            low=max(low, 0.0),
            high=min(high, 1.0),
            n=len(members),
            higher_is_better=False,
            detail={"held_out": len(others), **budget, "seed": seed},
        )
        for name, (value, (low, high)) in found.items()
    )
    evidence = Evidence(
        attack=f"{attack} ({kind})",
        role="trace",
        rows=rows_of(members, others),
        statistic="auc",
        margin=MARGIN,
        hidden=True,
        needed=needed,
    )
    return [Finding(auc, evidence), Finding(rate)]


def _caught_interval(
    members: NDArray[np.float64], others: NDArray[np.float64], value: float, question: Question
) -> tuple[float, float]:
    resamples = question.suite.resamples
    return resample_interval(_true_positives, [members, others], resamples=resamples, seed=question.seed, value=value)


def _true_positives(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The largest share of members caught at a threshold that at most 1 % of the others pass."""
    truth = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    false, true, _ = roc_curve(truth, np.concatenate([members, others]))
    return float(true[false <= FALSE_POSITIVES].max())
