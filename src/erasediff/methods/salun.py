"""SalUn: relabel the forget set, keep the retain loss, and move only the weights that matter for forgetting.

Fan, Liu, Zhang, Wong, Wei, Liu: SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image
Classification and Generation. ICLR 2024, arXiv:2310.12508.

    m = 1(|grad l_f(theta_0)| >= gamma)                                           eq. 4, gamma the median by default
    L = E_{D_f} ||eps_0(x_t | c') - eps_theta(x_t | c)||^2 + alpha l(theta; D_r)    eq. 7, c' another class than c
    d = m * grad L
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from erasediff.data.pairs import Pair, Pairs
from erasediff.errors import BadInput, check_finite, check_shares
from erasediff.methods.base import Direction, Needs, State, StepContext, record
from erasediff.methods.objectives import Denoise, Relabel
from erasediff.solver.gram import combine
from erasediff.solver.saliency import saliency_mask


@dataclass(frozen=True, kw_only=True)
class SalUn:
    """Masked relabelling.

    Args:
        mask_share: share of all trained weights that may move: those with the largest forget gradients at theta_0.
        mask_batches: batches of the forget set that the mask is computed from.
        alpha: weight of the retain loss.
        null_share: share of retain samples whose condition is dropped.
        forget_null_share: share of forget samples whose condition is dropped; the paper drops none.
    """

    mask_share: float = 0.5
    mask_batches: int = 8
    alpha: float = 1.0
    null_share: float = 0.1
    forget_null_share: float = 0.0

    PAPER: ClassVar[str] = "arXiv:2310.12508"
    SUMMARY: ClassVar[str] = "relabelling, confined to the weights with the largest forget gradients"
    needs: ClassVar[Needs] = Needs(classes=True, frozen=True)

    def __post_init__(self) -> None:
        if not 0 < self.mask_share <= 1:
            raise BadInput(f"mask_share must lie in (0, 1], got {self.mask_share}")
        if self.mask_batches < 1:
            raise BadInput(f"mask_batches must be at least 1, got {self.mask_batches}")
        check_finite(self, "alpha")
        check_shares(self, "null_share", "forget_null_share")

    def prepare(self, ctx: StepContext, pairs: Pairs) -> State:
        """The saliency mask at theta_0, as ``mask.0``, ``mask.1`` and so on in the order of the trained weights."""
        total: list[Tensor] = []
        for number in range(self.mask_batches):
            # A role of its own for each batch: otherwise every batch would see the noise of step 0.
            batch = replace(pairs.at(number).forget, role=f"saliency/{number}")
            (term,) = ctx.gradients((Denoise(0.0), batch))
            total = combine([1.0, 1.0], [total, term.gradients]) if total else list(term.gradients)
        return {f"mask.{i}": mask for i, mask in enumerate(saliency_mask(total, self.mask_share))}

    def direction(self, ctx: StepContext, pair: Pair, state: State) -> Direction:
        relabel, denoise = Relabel(self.forget_null_share), Denoise(self.null_share)
        forget, retain = ctx.gradients((relabel, pair.forget), (denoise, pair.retain))
        mask = [state[f"mask.{i}"] for i in range(len(forget.gradients))]
        gradients = combine([self.alpha, 1.0], [retain.gradients, forget.gradients])
        return Direction(gradients, record(retain=retain, forget=forget), state, mask=mask)

    def forward_equivalents(self) -> float:
        """Two students and one frozen pass; the mask costs ``3 * mask_batches`` once."""
        return 7
