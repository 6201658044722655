"""Concept Ablation: answer to the concept as the frozen model answers to an anchor concept.

Kumari, Zhang, Wang, Shechtman, Zhang, Zhu: Ablating Concepts in Text-to-Image Diffusion Models. ICCV 2023,
arXiv:2303.13516 (the model-based variant).

    L = E ||eps_theta(x_t, c*) - eps_0(x_t, c)||^2 + lambda E ||eps_theta(x_t, c) - eps||^2

with c* the concept, c the anchor, eps_0 the frozen model, and x_t noised images of the anchor, which the frozen model
draws itself. The second term is the ordinary denoising loss and keeps what is held. Written for the noise, it holds for
every prediction type: both sides are answers at the same x_t.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from erasediff.data.images import as_bytes
from erasediff.data.pairs import Batch, Pair, Pairs
from erasediff.errors import BadInput, check_finite, check_one_of, check_shares
from erasediff.methods.base import Direction, Needs, State, StepContext, Term, record
from erasediff.methods.drawn import showing_drawn
from erasediff.methods.objectives import RETAIN_OBJECTIVES, Anchor, retain_cost
from erasediff.solver.gram import combine

IMAGES = ("anchor", "forget")
HELD = ("anchor", "data")


@dataclass(frozen=True, kw_only=True)
class ConceptAblation:
    """Lead the concept's conditions to an anchor's.

    Args:
        images: what is noised: ``anchor`` (images of the anchor that the frozen model draws, once) or ``forget``.
        anchor_samples: how many images of the anchor are drawn.
        num_inference_steps: sampling steps for each of them.
        guidance_scale: guidance under which they are drawn.
        retain_weight: lambda, weight of the loss of what is held; 0 holds nothing.
        held: what is held: ``anchor`` (those images under the anchor's condition, as in the paper) or ``data`` (the
            retain set).
        retain: the loss that holds it: ``denoise`` (the ordinary one, as in the paper), ``distill`` (agree with the
            frozen model), ``blend`` (agree with the mean of both) or ``anneal`` (from distill to denoise over the run).
        retain_null_share: share of held samples whose condition is dropped.
    """

    images: str = "anchor"
    anchor_samples: int = 200
    num_inference_steps: int = 20
    guidance_scale: float = 3.0
    retain_weight: float = 1.0
    held: str = "anchor"
    retain: str = "denoise"
    retain_null_share: float = 0.0

    PAPER: ClassVar[str] = "arXiv:2303.13516"
    SUMMARY: ClassVar[str] = "the concept is answered as the frozen model answers an anchor"
    FLOOR_KNOWN: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_one_of("images", self.images, IMAGES)
        check_one_of("held", self.held, HELD)
        check_one_of("retain", self.retain, RETAIN_OBJECTIVES)
        for name in ("anchor_samples", "num_inference_steps"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, got {getattr(self, name)}")
        check_finite(self, "retain_weight", "guidance_scale")
        check_shares(self, "retain_null_share")
        if self.retain_weight and self.held == "anchor" and self.images != "anchor":
            raise BadInput(
                f"held anchor holds the images of the anchor, and with images {self.images} none are drawn; "
                "use held data, or retain_weight 0"
            )

    @property
    def needs(self) -> Needs:
        guided = self.images == "anchor" and self.guidance_scale != 1
        held = self.held == "data" and self.retain_weight > 0
        return Needs(retain_set=held, own_condition=True, anchor=True, null_condition=guided, frozen=True)

    def prepare(self, ctx: StepContext, pairs: Pairs) -> State:  # noqa: ARG002
        """``anchor.images``: uint8 [anchor_samples, C, H, W], where they are what is noised."""
        if self.images != "anchor":
            return {}
        labels = ctx.model.conditions.anchored(torch.zeros(self.anchor_samples, dtype=torch.long))
        drawn = ctx.generate(
            labels,
            self.anchor_samples,
            "anchor",
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
        )
        return {"anchor.images": as_bytes(drawn)}

    def direction(self, ctx: StepContext, pair: Pair, state: State) -> Direction:
        forget, *held = self._terms(ctx, pair, state)
        weights, parts = [1.0, *[self.retain_weight] * len(held)], [forget, *held]
        gradients = combine(weights, [part.gradients for part in parts])
        return Direction(gradients, record(forget=forget, retain=held[0] if held else None), state)

    @property
    def GRADIENT_LISTS(self) -> int:
        return 3 if self.retain_weight else 2

    def _terms(self, ctx: StepContext, pair: Pair, state: State) -> list[Term]:
        forget = _drawn(ctx, pair.forget, state)
        if not self.retain_weight:
            return ctx.gradients((Anchor(0.0), forget))
        held = pair.retain
        if self.held == "anchor":
            held = replace(forget, labels=ctx.model.conditions.anchored(forget.labels), role="anchor")
        objective = RETAIN_OBJECTIVES[self.retain](self.retain_null_share)
        return ctx.gradients((Anchor(0.0), forget), (objective, held))

    def forward_equivalents(self) -> float:
        """One student and one frozen pass, what holds something in the same way; once, the anchor's images."""
        return 4 + (retain_cost(self.retain) if self.retain_weight else 0)


def _drawn(ctx: StepContext, forget: Batch, state: State) -> Batch:
    """The forget batch's conditions on images of the anchor, drawn anew at each step; or the forget batch itself."""
    if "anchor.images" not in state:
        return forget
    return showing_drawn(ctx, forget, state["anchor.images"], "anchor")
