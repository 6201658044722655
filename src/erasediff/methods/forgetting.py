"""Forget targets by name: what the denoiser should say about forget samples, and what that asks of model and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from erasediff.families.base import ClassConditions
from erasediff.methods.base import Needs, Objective, State
from erasediff.methods.objectives import Anchor, Hellinger, Relabel, Unconditional, UniformNoise
from erasediff.methods.redirect import Redirect
from erasediff.methods.timesteps import Timesteps

AUTO = "auto"
PAPERS_RULE = "dynamic_barrier"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a forget target is asked: shares, repulsion, time steps, and whether its floor and what is left of the own
    answers (``watched``) are wanted."""

    state: State
    null_share: float
    repulsion: float
    floor: bool
    watched: bool
    timesteps: Timesteps


@dataclass(frozen=True, kw_only=True)
class ForgetTarget:
    """One way to say what should come instead. ``frozen_passes``: of theta_0 a step, before floor and repulsion.

    ``drawn_floor``: whether its floor costs one more. Where nothing else is said: ``repulsion``, how far it is pushed
    (0: it cannot be), ``eta``, how hard the barrier pushes, ``fades``, whether it no longer does when a run ends, and
    ``retain_focus``, the share of the retain loss that goes by likeness to the target's classes (measured where so),
    ``residual``, how much of the own answers may be left where the barrier stops pushing (``None``: not known), and
    ``rule``, how the two gradients are weighed.
    """

    make: Callable[[Asked], Objective]
    needs: Needs
    frozen_passes: int
    repulsion: float = 0.0
    eta: float = 0.3
    fades: bool = False
    retain_focus: float = 0.0
    residual: float | None = None
    rule: str = PAPERS_RULE
    drawn_floor: bool = False


FORGET_TARGETS = {
    "relabel": ForgetTarget(
        make=lambda a: Relabel(a.null_share, a.floor, a.repulsion, a.timesteps, a.state.get("others"), a.watched),
        needs=Needs(classes=True, frozen=True),
        frozen_passes=1,
        repulsion=0.8,
        fades=True,
        retain_focus=0.7,
        residual=0.1,
        rule="projected_barrier",
        drawn_floor=True,
    ),
    "anchor": ForgetTarget(
        make=lambda a: Anchor(a.null_share, a.repulsion, a.timesteps),
        needs=Needs(anchor=True, frozen=True),
        frozen_passes=1,
        repulsion=0.5,
    ),
    "redirect": ForgetTarget(
        make=lambda a: Redirect(a.state, a.null_share, a.timesteps), needs=Needs(), frozen_passes=0, eta=0.6
    ),
    "noise": ForgetTarget(make=lambda a: UniformNoise(a.null_share, a.timesteps), needs=Needs(), frozen_passes=0),
    "unconditional": ForgetTarget(
        make=lambda a: Unconditional(a.timesteps), needs=Needs(null_condition=True, frozen=True), frozen_passes=1
    ),
}
WEIGHTINGS: dict[str, Callable[[Objective], Objective]] = {"none": lambda objective: objective, "hellinger": Hellinger}


def suited(name: str, conditions: ClassConditions) -> str:
    """What ``auto`` stands for: ``anchor`` where there is one, ``relabel`` where classes go, else ``redirect``."""
    if name != AUTO:
        return name
    if conditions.anchor is not None:
        return "anchor"
    return "relabel" if conditions.excluded and conditions.classes() else "redirect"
