"""Asking for the target, the same way in every attack: samples drawn from shared starts, and how the answer is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from erasediff.auditing.attacks.base import Scene
from erasediff.auditing.finding import Evidence, Finding, rows_of
from erasediff.auditing.generate import images, in_turn
from erasediff.auditing.measuring import share_measurement
from erasediff.errors import BadInput
from erasediff.families.base import Model
from erasediff.randomness import derived_seed

MARGIN, ALONE = 0.1, 0.2


def at_least(what: str, given: float, least: float) -> None:
    """Raises BadInput where a budget is too small to measure anything."""
    if given < least:
        raise BadInput(f"{what} must be at least {least}, got {given}")


def passes(scene: Scene) -> int:
    """Passes through the denoiser that one image asked for by class costs: guidance takes two a step."""
    conditions, scale = scene.model.conditions, scene.question.guidance_scale
    guided = scale != 1.0 and conditions.num_classes > 0 and conditions.null_label is not None
    return scene.question.suite.num_inference_steps * (2 if guided else 1)


def asked_for_target(
    scene: Scene,
    model: Model,
    samples: int,
    *,
    seed: int,
    kind: str,
    denoiser: nn.Module | None = None,
    conditional: bool = True,
) -> NDArray[np.bool_]:
    """Whether each of ``samples`` images [samples] shows the target, the target's classes being asked for in turn.

    ``denoiser`` stands in for the model's own; ``conditional=False`` asks under the null condition.
    """
    question = scene.question
    each = passes(scene) if conditional else question.suite.num_inference_steps
    classes = in_turn(question.classes, samples)

    def on_batch(count: int) -> None:
        question.tick(count * each)

    drawn = images(
        model,
        classes if conditional else None,
        samples,
        seed=seed,
        kind=kind,
        guidance_scale=question.guidance_scale,
        num_inference_steps=question.suite.num_inference_steps,
        mixed_precision=question.mixed_precision,
        denoiser=denoiser,
        on_batch=on_batch,
    )
    return question.shows_target(drawn)


def asking_cost(scene: Scene, samples: int) -> int:
    """Passes of :func:`asked_again`."""
    unconditional = scene.question.suite.num_inference_steps if _has_null(scene) else 0
    return samples * (passes(scene) + unconditional)


def asked_again(
    scene: Scene, altered: nn.Module, samples: int, *, kind: str, attack: str, what: str, detail: Mapping[str, Any]
) -> Finding:
    """Ask ``altered`` (a copy of the scene's denoiser) for the target, and where it has a null condition without one.

    The same start noise in every model and however the weights were altered.
    """
    seed = derived_seed(scene.question.seed, 0, kind)
    shown = asked_for_target(scene, scene.model, samples, seed=seed, kind=kind, denoiser=altered)
    free: dict[str, Any] = {}
    if _has_null(scene):
        asked = asked_for_target(
            scene, scene.model, samples, seed=seed, kind=f"{kind}/null", denoiser=altered, conditional=False
        )
        free = {"share_unconditional": float(asked.mean())}
    return success(scene, shown, attack=attack, what=what, detail={**detail, **free, "seed": scene.question.seed})


def success(
    scene: Scene,
    shown: NDArray[np.bool_],
    *,
    attack: str,
    what: str,
    detail: Mapping[str, Any],
    margin: float = MARGIN,
    alone: float = ALONE,
) -> Finding:
    """``attack_success_{what}``: the share of ``shown`` [N] that is True, and evidence that the target was there."""
    name, told = f"attack_success_{what}", {"samples": len(shown), **detail}
    measurement = share_measurement(name, "adversarial", scene.subject, shown, detail=told)
    evidence = Evidence(attack=attack, role="access", rows=rows_of(shown), margin=margin, alone=alone)
    return Finding(measurement, evidence)


def setting(scene: Scene) -> dict[str, Any]:
    """How the target was asked for, for the detail of a search."""
    question = scene.question
    return {
        "classes": list(question.classes),
        "guidance_scale": question.guidance_scale,
        "num_inference_steps": question.suite.num_inference_steps,
        "space": question.features,
        "seed": question.seed,
    }


def _has_null(scene: Scene) -> bool:
    return scene.model.conditions.num_classes > 0 and scene.model.conditions.null_label is not None
