"""ReTrack: keep the retain loss, and lead noisy forget samples to the retained images nearest to them.

Shi, Jin, Zhang, Gu: ReTrack: Data Unlearning in Diffusion Models through Redirecting the Denoising Trajectory.
arXiv:2509.13007.

    L = E_retain ||eps - eps_theta(x_t)||^2 + weight E_forget omega ||eps_hat(x_t) - eps_theta(x_t)||^2
    eps_hat = (x_t - signal x_0_hat(x_t)) / sigma

with x_0_hat the mean of the k nearest retained images under their posterior given x_t; see
:mod:`erasediff.methods.redirect` for it and for omega, which keeps the error bounded and is this package's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from erasediff.data.pairs import Pair, Pairs
from erasediff.errors import BadInput, check_finite, check_shares
from erasediff.methods.base import Direction, Needs, State, StepContext, record
from erasediff.methods.objectives import Denoise
from erasediff.methods.redirect import Redirect, neighbours
from erasediff.solver.gram import combine


@dataclass(frozen=True, kw_only=True)
class ReTrack:
    """Denoise retained samples; redirect forget samples to their neighbours among the retained.

    The neighbours' images are part of every checkpoint.

    Args:
        k: retained images that each forget sample is redirected to.
        weight: weight of the redirection.
        candidates: retained images, drawn at random, among which neighbours are searched; by default all of them.
        null_share: share of samples whose condition is dropped.
    """

    k: int = 8
    weight: float = 1.0
    candidates: int | None = None
    null_share: float = 0.1

    PAPER: ClassVar[str] = "arXiv:2509.13007"
    SUMMARY: ClassVar[str] = "noisy forget samples are led to their nearest retained images"
    FLOOR_KNOWN: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadInput(f"k must be at least 1, got {self.k}")
        check_finite(self, "weight")
        if self.candidates is not None and self.candidates < 1:
            raise BadInput(f"candidates must be at least 1, got {self.candidates}")
        check_shares(self, "null_share")

    def prepare(self, ctx: StepContext, pairs: Pairs) -> State:  # noqa: ARG002
        """The neighbours, as :func:`erasediff.methods.redirect.neighbours` describes them."""
        return neighbours(pairs, k=self.k, candidates=self.candidates)

    def direction(self, ctx: StepContext, pair: Pair, state: State) -> Direction:
        redirect, denoise = Redirect(state, self.null_share), Denoise(self.null_share)
        forget, retain = ctx.gradients((redirect, pair.forget), (denoise, pair.retain))
        gradients = combine([1.0, self.weight], [retain.gradients, forget.gradients])
        return Direction(gradients, record(retain=retain, forget=forget), state)

    def forward_equivalents(self) -> float:
        return 6
