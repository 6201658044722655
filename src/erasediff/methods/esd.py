"""ESD: answer to the concept as classifier-free guidance away from it would.

Gandikota, Materzynska, Fiotto-Kaufman, Bau: Erasing Concepts from Diffusion Models. ICCV 2023, arXiv:2303.07345.

    eps_theta(x_t, c)  <-  eps_0(x_t) - gamma (eps_0(x_t, c) - eps_0(x_t))

with eps_0 the frozen model, eps_0(x_t) its prediction under the null condition, and x_t drawn from noise to the step t
by the model as it is now, under c with guidance. So no images are needed.

The rule is written for the noise and holds for every prediction type: at a given x_t, v, x_0 and flow are each of the
form ``a x_t + b eps`` with a and b of t alone, and the weights of the right side, 1 + gamma and -gamma, add up to 1. So
the target of the one is the target of the other, and only the loss is weighed by b^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from erasediff.data.pairs import Batch, Pair
from erasediff.errors import BadInput, check_finite, check_one_of, check_shares
from erasediff.families.base import Noisy
from erasediff.methods.base import Direction, Losses, Needs, State, Stateless, StepContext, record
from erasediff.methods.objectives import RETAIN_OBJECTIVES, retain_cost
from erasediff.solver.gram import combine

SOURCES = ("sampled", "data")


@dataclass(frozen=True, kw_only=True)
class ESD(Stateless):
    """Negative guidance, distilled into the answer to the target's own condition.

    As published nothing else is held; ``retain_weight`` holds the retain set besides. The paper's variants are sets of
    weights: ESD-x is ``--parameters cross_attention``, ESD-u is ``--parameters no_cross_attention``, all weights are
    ``--parameters full``.

    Args:
        negative_guidance: gamma, how far the target is pushed away from the concept; 0 stops at the null condition.
        x_t: where noisy samples come from: ``sampled`` (drawn by the current model, as in the paper) or ``data``
            (the forget images with noise, at a fraction of the cost).
        guidance_scale: guidance under which ``sampled`` ones are drawn.
        num_inference_steps: sampling steps from noise to an image, one of which is stopped at.
        retain_weight: weight of the loss on the retain set; 0 holds nothing, as in the paper.
        retain: that loss: ``distill`` (agree with the frozen model), ``denoise`` (the ordinary one), ``blend`` (agree
            with the mean of both) or ``anneal`` (from distill to denoise over the run).
        retain_null_share: share of retain samples whose condition is dropped.
    """

    negative_guidance: float = 1.0
    x_t: str = "sampled"
    guidance_scale: float = 3.0
    num_inference_steps: int = 20
    retain_weight: float = 0.0
    retain: str = "distill"
    retain_null_share: float = 0.2

    PAPER: ClassVar[str] = "arXiv:2303.07345"
    SUMMARY: ClassVar[str] = "negative guidance against the concept, distilled into the answer to it"
    FLOOR_KNOWN: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_one_of("x_t", self.x_t, SOURCES)
        check_one_of("retain", self.retain, RETAIN_OBJECTIVES)
        check_finite(self, "negative_guidance", "guidance_scale", "retain_weight")
        check_shares(self, "retain_null_share")
        if self.num_inference_steps < 1:
            raise BadInput(f"num_inference_steps must be at least 1, got {self.num_inference_steps}")

    @property
    def needs(self) -> Needs:
        return Needs(retain_set=self.retain_weight > 0, own_condition=True, null_condition=True, frozen=True)

    @property
    def GRADIENT_LISTS(self) -> int:
        return 3 if self.retain_weight else 1

    def direction(self, ctx: StepContext, pair: Pair, state: State) -> Direction:
        if not self.retain_weight:
            (forget,) = ctx.gradients((self.objective, pair.forget))
            return Direction(forget.gradients, record(forget=forget), state)
        held = RETAIN_OBJECTIVES[self.retain](self.retain_null_share)
        forget, retain = ctx.gradients((self.objective, pair.forget), (held, pair.retain))
        gradients = combine([1.0, self.retain_weight], [forget.gradients, retain.gradients])
        return Direction(gradients, record(forget=forget, retain=retain), state)

    def objective(self, ctx: StepContext, batch: Batch) -> Losses:
        """Squared error of the answer to the batch's own conditions. Floor 0: the target is a function of (x_t, c)."""
        conditions, noisy = ctx.model.conditions, self._noisy(ctx, batch)
        own = conditions.own(batch.labels)
        free = ctx.predict(noisy, conditions.null(batch.labels), frozen=True)
        target = free - self.negative_guidance * (ctx.predict(noisy, own, frozen=True) - free)
        loss = ctx.divergence(ctx.predict(noisy, own), target)
        return Losses(loss, torch.zeros_like(loss))

    def _noisy(self, ctx: StepContext, batch: Batch) -> Noisy:
        if self.x_t == "data":
            return ctx.noised(batch)
        return ctx.sample_to(
            batch,
            ctx.model.conditions.own(batch.labels),
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
        )

    def forward_equivalents(self) -> float:
        """A student, two frozen passes, half a drawing on average (two passes a step under guidance), what holds."""
        drawn = (self.num_inference_steps - 1) / 2 * (1 if self.guidance_scale == 1 else 2)
        held = retain_cost(self.retain) if self.retain_weight else 0
        return 5 + held + (drawn if self.x_t == "sampled" else 0)
