"""EraseDiff: keep the retain loss low subject to the forget loss being as low as it can be.

Wu, Le, Hayat, Harandi: Erasing Undesirable Influence in Diffusion Models. CVPR 2025, arXiv:2401.05779.

    minimise L_r(theta)   subject to   g(theta) = L_f(theta) - min_phi L_f(phi) <= 0

One first-order step of the dynamic barrier: ``d = g_r + lambda g_f`` with
``lambda = max(0, (a - <g_r, g_f>) / ||g_f||^2)`` and ``a = eta ||g_f||^2``. The least forget loss is a constant in
theta, so it enters neither g_f nor, under this a, lambda: no inner loop is run. The two gradients are computed once
and serve both lambda and the step.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import ClassVar, Self

from torch import Tensor

from erasediff.data.pairs import Pair, Pairs
from erasediff.errors import BadInput, check_finite, check_one_of, check_shares
from erasediff.families.base import ClassConditions
from erasediff.methods.base import Direction, Needs, Objective, State, StepContext, record
from erasediff.methods.decided import Decided, given, push
from erasediff.methods.forgetting import AUTO, FORGET_TARGETS, WEIGHTINGS, Asked
from erasediff.methods.objectives import RETAIN_OBJECTIVES, Held, retain_cost
from erasediff.methods.others import CHOICES, distances, held
from erasediff.methods.redirect import neighbours
from erasediff.methods.timesteps import Timesteps, importance
from erasediff.solver import rules
from erasediff.solver.gram import combine


@dataclass(frozen=True, kw_only=True)
class EraseDiff:
    """Forget under a value-function constraint, retain with what freedom is left.

    Args:
        forget_target: what the denoiser should say about forget samples: ``relabel`` (the frozen model under another
            class), ``redirect`` (the best denoiser of the retained images nearest to them), ``noise`` (U[0, 1), as in
            the paper), ``unconditional`` (the frozen model without condition), or ``auto``: relabel where whole
            classes of a class-conditional model are forgotten, else redirect; ``anchor`` (the frozen model under
            the anchor's prompt) for models asked in words, and what ``auto`` takes where an anchor is given.
        others: which classes ``relabel`` draws: ``distant`` (rather those that the frozen model tells best from the
            sample's own; of more than 128 classes all alike) or ``uniform``.
        neighbours: retained images that each forget sample is redirected to.
        repulsion: how far the ``relabel`` or ``anchor`` target is pushed away from the sample's own class; 0 for the
            plain one; by default 0.8 under ``relabel`` and 0.5 under ``anchor``.
        retain: ``distill`` (agree with the frozen model: little variance, so few and large steps), ``denoise`` (the
            ordinary loss), ``blend`` (agree with the mean of both), ``anneal`` (distill at the beginning of the run,
            denoise at its end), or ``auto``: anneal where whole classes are forgotten, distill for models asked in
            words, whose retained images are few or their own, and denoise for samples, of which the frozen model would
            keep drawing copies.
        rule: how the two gradients are weighed; ``erasediff list rules`` names them. ``auto``: ``projected_barrier``
            where ``relabel`` takes out classes, else ``dynamic_barrier``, the paper's.
        eta: how hard the barrier pushes; the forget loss falls at least eta ||g_f||^2 per unit step; by default 0.6
            under ``redirect``, else 0.3.
        eta_end: what eta has become at the end of the run, in a straight line; at 0 the forget loss may no longer rise,
            but need not fall. By default 0 under ``relabel``, else eta.
        multiplier: the constant of rule ``constant``.
        timestep_focus: share of forget time steps drawn where the frozen model tells the target's class from others;
            0 draws them uniformly.
        weighting: ``none``, or ``hellinger``: forget loss as 1 - exp(-loss).
        null_share: share of forget samples whose condition is dropped, so that the null condition forgets too.
        retain_null_share: share of retain samples whose condition is dropped.
        retain_focus: share of the retain loss that goes by how little the frozen model tells a class from the target's
            (of more than 128 classes all alike); when a run ends, all count alike. By default 0.7 where ``relabel``
            takes out classes, else 0.
        residual: which share of its own answers about the target's class may be left (1: all) where the barrier stops
            pushing; it pushes less from four times that on down. 0 pushes on. By default 0.1 where ``relabel`` takes
            out classes, else 0; targets other than relabel do not know what is left.
        norm_floor: least ||g_f||^2 relative to ||g_r||^2 by which lambda is divided.
        max_multiplier: cap on lambda.
        tolerance: slack at or below which the forget term is skipped; ``None`` never skips.
        track_slack: measure the slack at every step even where the rule does not need it (one more frozen pass
            for ``relabel``); stopping on the constraint needs it.
    """

    forget_target: str = "auto"
    others: str = "distant"
    neighbours: int = 8
    repulsion: float | None = None
    retain: str = AUTO
    rule: str = AUTO
    eta: float | None = None
    eta_end: float | None = None
    multiplier: float = 1.0
    timestep_focus: float = 0.0
    weighting: str = "none"
    null_share: float = 0.3
    retain_null_share: float = 0.2
    retain_focus: float | None = None
    residual: float | None = None
    norm_floor: float = 1e-8
    max_multiplier: float = 1e4
    tolerance: float | None = None
    track_slack: bool = False

    PAPER: ClassVar[str] = "arXiv:2401.05779"
    SUMMARY: ClassVar[str] = "constrained descent with a value function, solved to first order"
    FORGET_SHARE: ClassVar[float] = 0.25
    """How many forget samples suffice for each retain sample of a step: measured on classes, images/search.md."""

    def __post_init__(self) -> None:
        check_one_of("forget_target", self.forget_target, [AUTO, *FORGET_TARGETS])
        check_one_of("retain", self.retain, [AUTO, *RETAIN_OBJECTIVES])
        check_one_of("rule", self.rule, [AUTO, *rules.RULES])
        check_one_of("others", self.others, CHOICES)
        check_one_of("weighting", self.weighting, WEIGHTINGS)
        check_shares(self, "null_share", "retain_null_share", "retain_focus", "residual", "timestep_focus")
        if self.neighbours < 1:
            raise BadInput(f"neighbours must be at least 1, got {self.neighbours}")
        for name in ("eta", "max_multiplier"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInput(f"{name} must be above 0, got {value}")
        check_finite(self, "repulsion", "eta", "eta_end", "multiplier", "norm_floor")
        if (
            self.weighting != "none"
            and self.forget_target not in ("unconditional", "redirect", "anchor")
            and self.measures_slack
        ):
            raise BadInput(
                f"weighting {self.weighting} has no known floor under forget_target {self.forget_target}: rule "
                f"{self.rule}, tolerance and slack_tolerance need one; use weighting none"
            )

    def suited_to(self, conditions: ClassConditions) -> Self:
        """The same with ``auto`` and what else is left to the target decided: what goes into the record."""
        return replace(self, **asdict(self._decided(conditions)))

    def _decided(self, conditions: ClassConditions) -> Decided:
        return Decided.of(conditions, **{field.name: getattr(self, field.name) for field in fields(Decided)})

    @property
    def needs(self) -> Needs:
        asked = Needs(frozen=True) if self.forget_target == AUTO else FORGET_TARGETS[self.forget_target].needs
        focused = self.timestep_focus > 0 or (self.retain_focus or 0) > 0
        return replace(
            asked,
            classes=asked.classes or focused,
            frozen=asked.frozen or focused or self.retain != "denoise",
            moments="moments" in self._rule_needs,
        )

    @property
    def measures_slack(self) -> bool:
        """Whether each step's forget loss comes with its floor."""
        return self.track_slack or self.tolerance is not None or "slack" in self._rule_needs

    @property
    def _rule_needs(self) -> frozenset[str]:
        """What ``auto`` stands for needs nothing."""
        return frozenset() if self.rule == AUTO else rules.find(self.rule).needs

    def prepare(self, ctx: StepContext, pairs: Pairs) -> State:
        """The density of forget time steps where it is not uniform, what is read from the distances of classes, and the
        neighbours where they are the target."""
        state: dict[str, Tensor] = {}
        if self.timestep_focus:
            state["timesteps"] = importance(ctx, pairs, self.timestep_focus)
        decided = self._decided(ctx.model.conditions)
        drawn = CHOICES[self.others] if decided.forget_target == "relabel" else None
        found = distances(ctx, pairs) if drawn is not None or decided.retain_focus else None
        if found is not None:
            device = ctx.weights()[0].device
            if drawn is not None:
                state["others"] = drawn(found).to(device)
            if decided.retain_focus:
                state["held"] = held(found, pairs, decided.retain_focus).to(device)
        if decided.forget_target == "redirect":
            state |= neighbours(pairs, k=self.neighbours, candidates=None)
        return state

    def direction(self, ctx: StepContext, pair: Pair, state: State) -> Direction:
        decided = self._decided(ctx.model.conditions)
        asked = Asked(
            state=state,
            null_share=self.null_share,
            repulsion=decided.repulsion,
            floor=self.measures_slack,
            watched=decided.residual > 0,
            timesteps=Timesteps(state.get("timesteps")),
        )
        forget_objective = WEIGHTINGS[self.weighting](FORGET_TARGETS[decided.forget_target].make(asked))
        retain_objective = self._retain_objective(decided.retain, state)
        forget, retain = ctx.gradients((forget_objective, pair.forget), (retain_objective, pair.retain))
        rule = rules.find(decided.rule)
        weighed = rule.weigh(
            retain.gradients,
            forget.gradients,
            rules.RuleInputs(
                eta=decided.eta_at(ctx.progress) * push(forget.left, decided.residual),
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

    def _retain_objective(self, name: str, state: State) -> Objective:
        plain = RETAIN_OBJECTIVES[name](self.retain_null_share)
        return Held(plain, state["held"]) if "held" in state else plain

    def forward_equivalents(self) -> float:
        """Two students (forward and backward) and the frozen passes of target, floor and distillation."""
        return self.forget_forwards() + retain_cost(self.retain)

    def forget_forwards(self) -> float:
        """Those of the forget batch."""
        name = "relabel" if self.forget_target == AUTO else self.forget_target
        target = FORGET_TARGETS[name]
        watched = target.residual is not None and given(self.residual, target.residual) > 0
        own = watched or (target.repulsion > 0 and given(self.repulsion, target.repulsion) > 0)
        drawn = (target.drawn_floor and self.measures_slack) + own
        return 3 + target.frozen_passes + drawn
