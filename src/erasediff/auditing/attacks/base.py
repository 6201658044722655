"""What every attack is: a frozen dataclass whose fields are its budget, and ``run``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from erasediff.auditing.finding import Finding
from erasediff.auditing.question import Question
from erasediff.auditing.result import ERASED
from erasediff.families.base import Model

RETRAINED, BASE, CONTROL = "retrained", "base", "control"
FEWEST_SAMPLES = 6  # fewer say nothing about a share, nor about how well two groups are told apart
FORGETFUL = (ERASED, RETRAINED)
"""The subjects of an attack that says nothing of a model that never forgot."""


@dataclass(frozen=True)
class Scene:
    """One attack on one subject. ``base``: the model before erasing, where it was given. Attacks change copies only."""

    subject: str
    model: Model
    question: Question
    base: Model | None = None


class Attack(Protocol):
    """An attack that an audit runs on its subjects. Fields are budgets and appear in ``audit.json`` and the cache key.

    An attack that needs no real image of the target says so by ``WITHOUT_IMAGES = True``.
    ``name`` is the attack's in ``--attacks`` and ``exposed_by``. ``SUBJECTS``: on which subjects it is run. An attack
    that uses instruments of its own has ``instruments(scene)`` besides: their versions and hashes, for the cache key.
    """

    name: ClassVar[str]
    SUMMARY: ClassVar[str]
    PAPER: ClassVar[str]
    SUBJECTS: ClassVar[tuple[str, ...]]

    def refusal(self, scene: Scene) -> str | None:
        """Why the attack cannot be run here, in a few words for the list of what was not tested; else ``None``."""

    def cost(self, scene: Scene) -> int:
        """About how many images pass forward through the denoiser; a backward pass counts as two."""

    def run(self, scene: Scene) -> list[Finding]:
        """Attack; the scene's models are left as they were."""


def instruments(attack: Attack, scene: Scene) -> list[Any]:
    """What the attack's answer depends on besides its budget, the question and the models; most have nothing."""
    named: Callable[[Scene], list[Any]] | None = getattr(attack, "instruments", None)
    return [] if named is None else named(scene)


def needs(scene: Scene, **wanted: bool) -> str | None:
    """The reasons of common refusals: ``needs(scene, judge=True, classes=True)``."""
    question, model = scene.question, scene.model
    there: dict[str, tuple[bool, str]] = {
        "judge": (question.judge is not None, "the data has no labels, so that no classifier can judge"),
        "classes": (bool(question.classes), "the target is no class of this model"),
        "held_out": (len(question.held_out) > 0, "the data has no held-out images like the forget set"),
        "null": (model.conditions.null_label is not None, "the model has no null condition"),
        "base": (scene.base is not None, "no base model was given"),
        "enough": (
            min(len(question.distinct), len(question.held_out)) >= FEWEST_SAMPLES,
            f"{len(question.distinct)} different forgotten images and {len(question.held_out)} held-out ones are too "
            f"few to be told apart: {FEWEST_SAMPLES} of each are needed",
        ),
    }
    return next((why for name, (found, why) in there.items() if wanted.get(name) and not found), None)
