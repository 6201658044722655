"""What the fields of ``EraseDiff`` stand for where they leave it to the target and the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from erasediff.errors import BadInput, listing
from erasediff.families.base import ClassConditions
from erasediff.methods.forgetting import AUTO, FORGET_TARGETS, PAPERS_RULE, ForgetTarget, suited

AGAIN = 4.0  # times the residual, from where on the barrier pushes in full


def push(left: Tensor | None, residual: float) -> float | Tensor:
    """How hard the barrier pushes, 0 to 1, where so much of the target's own answers is left: it stops at ``residual``.

    What is gone need not be pushed any further, and the push is what keeps the classes away that look like it. Where
    the rest brings some of it back, the push comes back too.
    """
    if left is None or residual == 0:
        return 1.0
    return ((left - residual) / ((AGAIN - 1) * residual)).clamp(0, 1)


def given(value: float | None, usual: float) -> float:
    """What was asked for, else what is usual."""
    return usual if value is None else value


@dataclass(frozen=True, kw_only=True)
class Decided:
    """The fields of ``EraseDiff`` that may be left open, none of them open."""

    forget_target: str
    retain: str
    rule: str
    repulsion: float
    eta: float
    eta_end: float
    retain_focus: float
    residual: float

    @classmethod
    def of(
        cls,
        conditions: ClassConditions,
        *,
        forget_target: str,
        retain: str,
        rule: str,
        repulsion: float | None,
        eta: float | None,
        eta_end: float | None,
        retain_focus: float | None,
        residual: float | None,
    ) -> Self:
        """Raises BadInput for a residual under a forget target that does not know what is left."""
        name = suited(forget_target, conditions)
        usual = FORGET_TARGETS[name]
        if usual.residual is None and residual:
            knowing = listing(k for k, t in FORGET_TARGETS.items() if t.residual is not None)
            raise BadInput(
                f"residual {residual} cannot be watched under forget_target {name}, which does not know what is "
                f"left; use 0, or one of: {knowing}"
            )
        pushes = given(eta, usual.eta)
        of_classes = 0.0 if conditions.in_words else 1.0  # what is asked for in words is no row of classes
        return cls(
            forget_target=name,
            retain=_retain(conditions) if retain == AUTO else retain,
            rule=_rule(usual, conditions) if rule == AUTO else rule,
            repulsion=given(repulsion, usual.repulsion),
            eta=pushes,
            eta_end=given(eta_end, 0.0 if usual.fades else pushes),
            retain_focus=given(retain_focus, of_classes * usual.retain_focus),
            residual=given(residual, of_classes * (usual.residual or 0.0)),
        )

    def eta_at(self, progress: float) -> float:
        """How hard the barrier pushes at this share of the run."""
        return self.eta + (self.eta_end - self.eta) * progress


def _retain(conditions: ClassConditions) -> str:
    if conditions.in_words:
        return "distill"
    return "anneal" if conditions.excluded else "denoise"


def _rule(target: ForgetTarget, conditions: ClassConditions) -> str:
    return PAPERS_RULE if conditions.in_words else target.rule
