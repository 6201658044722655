"""EraseDiff: keep the retain loss low subject to the forget loss being as low as it can be.

Wu, Le, Hayat, Harandi: Erasing Undesirable Influence in Diffusion Models. CVPR 2025, arXiv:2401.05779.

    minimise L_r(theta)   subject to   g(theta) = L_f(theta) - min_phi L_f(phi) <= 0

One first-order step of the dynamic barrier: ``d = g_r + lambda g_f`` with
``lambda = max(0, (a - <g_r, g_f>) / ||g_f||^2)`` and ``a = eta ||g_f||^2``. The least forget loss is a constant in
theta, so it enters neither g_f nor, under this a, lambda: no inner loop is run. The two gradients are computed once
and serve both lambda and the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from erasediff.data.pairs import Pair
from erasediff.errors import BadInput, check_one_of
from erasediff.methods.base import Direction, Needs, State, Stateless, StepContext, record
from erasediff.methods.objectives import FORGET_TARGETS, RETAIN_OBJECTIVES, forget_objective
from erasediff.solver import rules
from erasediff.solver.gram import combine


@dataclass(frozen=True, kw_only=True)
class EraseDiff(Stateless):
    """Forget under a value-function constraint, retain with what freedom is left.

    Args:
        forget_target: what the denoiser should say about forget samples: ``relabel`` (the frozen model under another
            class), ``noise`` (U[0, 1), as in the paper) or ``unconditional`` (the frozen model without condition).
        repulsion: how far the ``relabel`` target is pushed away from the sample's own class; 0 for the plain one.
        retain: ``denoise`` (the ordinary loss) or ``distill`` (agree with the frozen model; for little retain data).
        rule: how the two gradients are weighed; ``erasediff list rules`` names them.
        eta: how hard the barrier pushes; the forget loss falls at least eta ||g_f||^2 per unit step.
        multiplier: the constant of rule ``constant``.
        null_share: share of forget samples whose condition is dropped, so that the null condition forgets too.
        retain_null_share: share of retain samples whose condition is dropped.
        norm_floor: least ||g_f||^2 relative to ||g_r||^2 by which lambda is divided.
        max_multiplier: cap on lambda.
        tolerance: slack at or below which the forget term is skipped; ``None`` never skips.
        track_slack: measure the slack at every step even where the rule does not need it (one more frozen pass
            for ``relabel``); stopping on the constraint needs it.
    """

    forget_target: str = "relabel"
    repulsion: float = 0.5
    retain: str = "denoise"
    rule: str = "dynamic_barrier"
    eta: float = 1.0
    multiplier: float = 1.0
    null_share: float = 0.3
    retain_null_share: float = 0.2
    norm_floor: float = 1e-8
    max_multiplier: float = 1e4
    tolerance: float | None = None
    track_slack: bool = False

    PAPER: ClassVar[str] = "arXiv:2401.05779"
    SUMMARY: ClassVar[str] = "constrained descent with a value function, solved to first order"

    def __post_init__(self) -> None:
        check_one_of("forget_target", self.forget_target, FORGET_TARGETS)
        check_one_of("retain", self.retain, RETAIN_OBJECTIVES)
        rules.find(self.rule)
        for name in ("null_share", "retain_null_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.repulsion < 0:
            raise BadInput(f"repulsion must not be negative, got {self.repulsion}")
        for name in ("eta", "max_multiplier"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name} must be above 0, got {getattr(self, name)}")

    @property
    def needs(self) -> Needs:
        teacher = self.forget_target != "noise" or self.retain == "distill"
        return Needs(
            classes=self.forget_target == "relabel",
            null_condition=self.forget_target == "unconditional",
            frozen=teacher,
        )

    @property
    def measures_slack(self) -> bool:
        """Whether each step's forget loss comes with its floor."""
        return self.track_slack or self.tolerance is not None or "slack" in rules.find(self.rule).needs

    def direction(self, ctx: StepContext, pair: Pair, state: State) -> Direction:
        forget_objective_ = forget_objective(
            self.forget_target, null_share=self.null_share, floor=self.measures_slack, repulsion=self.repulsion
        )
        retain_objective = RETAIN_OBJECTIVES[self.retain](self.retain_null_share)
        forget, retain = ctx.gradients((forget_objective_, pair.forget), (retain_objective, pair.retain))
        rule = rules.find(self.rule)
        weighed = rule.weigh(
            retain.gradients,
            forget.gradients,
            rules.RuleInputs(
                eta=self.eta,
                value=self.multiplier,
                slack=forget.slack,
                moments=ctx.moments() if "moments" in rule.needs else None,
                norm_floor=self.norm_floor,
                cap=self.max_multiplier,
                tolerance=self.tolerance,
            ),
        )
        log = {**record(retain=retain, forget=forget), **weighed.log}
        return Direction(combine(weighed.weights, [retain.gradients, forget.gradients]), log, state)

    def forward_equivalents(self) -> float:
        """Two students (forward and backward) and the frozen passes of target, floor and distillation."""
        relabel = 1 + self.measures_slack + (self.repulsion > 0)
        frozen = {"relabel": relabel, "noise": 0, "unconditional": 1}[self.forget_target]
        return 6 + frozen + (self.retain == "distill")
