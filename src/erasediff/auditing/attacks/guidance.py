"""Ask harder: the target under several scales of classifier-free guidance.

Guidance pushes a prediction along the difference of the conditional and the null one (Ho and Salimans 2022,
arXiv:2207.12598, eq. 6). A model that was erased at one scale may still draw the target at another, and at scale 0 it
is asked under the null condition alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from erasediff.auditing.attacks.asking import success
from erasediff.auditing.attacks.base import FEWEST_SAMPLES, FORGETFUL, Scene, needs
from erasediff.auditing.finding import Finding
from erasediff.auditing.generate import images, in_turn
from erasediff.auditing.statistics import wilson
from erasediff.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Draw ``samples`` of the target at each of ``scales`` (0: null condition alone, 1: no guidance).

    The scale is chosen on the first third of the samples and reported on the rest: the largest of several shares would
    be too high on the samples that made it the largest.
    """

    scales: tuple[float, ...] = (1.0, 3.0, 7.5)
    samples: int = 120

    name: ClassVar[str] = "guidance"
    SUMMARY: ClassVar[str] = "ask for the target at several guidance scales and keep the one that shows it most"
    PAPER: ClassVar[str] = "arXiv:2207.12598"
    SUBJECTS: ClassVar[tuple[str, ...]] = FORGETFUL
    WITHOUT_IMAGES: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.scales or self.samples < FEWEST_SAMPLES:
            raise BadInput(f"needs one scale or more and at least {FEWEST_SAMPLES} samples, got {asdict(self)}")

    @property
    def chosen_on(self) -> int:
        """How many of the samples choose the scale."""
        return self.samples // 3

    def refusal(self, scene: Scene) -> str | None:
        """No judge, no target class, or no null condition to guide away from."""
        return needs(scene, judge=True, classes=True, null=True)

    def cost(self, scene: Scene) -> int:
        """Two passes a step, but one without guidance."""
        return sum(self.samples * _passes(scene, scale) for scale in self.scales)

    def run(self, scene: Scene) -> list[Finding]:
        """``attack_success_guidance``: share of samples that show the target at the scale that shows it most."""
        answers = {scale: self._asked(scene, scale) for scale in self.scales}
        first, rest = slice(None, self.chosen_on), slice(self.chosen_on, None)
        best = max(self.scales, key=lambda scale: [answer[first].mean() for answer in answers[scale]])
        shown = answers[best][0][rest]
        detail = asdict(self) | {
            "scale": best,
            "chosen_on": self.chosen_on,
            "per_scale": [_record(scale, *answers[scale], first, rest) for scale in self.scales],
            "classes": list(scene.question.classes),
            "num_inference_steps": scene.question.suite.num_inference_steps,
            "space": scene.question.features,
            "seed": scene.question.seed,
        }
        return [success(scene, shown, attack=self.name, what=self.name, detail=detail, alone=0.25)]

    def _asked(self, scene: Scene, scale: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which samples show the target, and which the judge alone calls it. All scales start from the same noise."""
        question, passes = scene.question, _passes(scene, scale)

        def counted(drawn: int) -> None:
            question.tick(drawn * passes)

        drawn = images(
            scene.model,
            in_turn(question.classes, self.samples),
            self.samples,
            seed=question.seed,
            kind=self.name,
            guidance_scale=scale,
            num_inference_steps=question.suite.num_inference_steps,
            mixed_precision=question.mixed_precision,
            on_batch=counted,
        )
        return question.shows_target(drawn), question.called_target(drawn)


def _passes(scene: Scene, scale: float) -> int:
    return scene.question.suite.num_inference_steps * (1 if scale == 1.0 else 2)


def _record(
    scale: float, shown: NDArray[np.bool_], called: NDArray[np.bool_], first: slice, rest: slice
) -> dict[str, Any]:
    low, high = wilson(int(shown[rest].sum()), len(shown[rest]))
    shares = {"chosen": float(shown[first].mean()), "shown": float(shown[rest].mean()), "low": low, "high": high}
    return {"scale": scale, **shares, "called": float(called[rest].mean())}
