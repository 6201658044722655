"""SISS: keep and delete data share one noisy sample, drawn from a mixture and weighed by importance.

Alberti, Hasanaliyev, Shah, Ermon: Data Unlearning in Diffusion Models. ICLR 2025, arXiv:2503.01034.

With n samples of which k are to be deleted, x one to keep and a one to delete:

    q_lambda(m_t | x, a) = (1 - lambda) q(m_t | x) + lambda q(m_t | a)
    w_x = q(m_t | x) / q_lambda,   w_a = q(m_t | a) / q_lambda,   so (1 - lambda) w_x + lambda w_a = 1
    L = n/(n-k) E[w_x ||eps_x - eps_theta(m_t)||^2] - (1+s) k/(n-k) E[w_a ||eps_a - eps_theta(m_t)||^2]

where eps_x and eps_a are the noises that lead from x and from a to m_t. Each expectation is that of the ordinary
denoising loss of its set, whatever lambda. s is not set but found at every step: the delete term's gradient gets a
fixed share of the norm of the keep term's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from erasediff.data.pairs import Batch, Pair, Pairs
from erasediff.errors import BadInput, check_finite, check_shares
from erasediff.families.base import Condition
from erasediff.methods.base import Direction, Losses, Needs, State, StepContext, Term, record
from erasediff.methods.objectives import Denoise, condition_dropped
from erasediff.solver.gram import combine, cosine, gram, quotient


def importance_weights(log_ratio: Tensor, mixing: float) -> tuple[Tensor, Tensor]:
    """(w_x, w_a), each [b], from ``log_ratio`` = log q(m|a) - log q(m|x) [b] and lambda.

    Each weight is the inverse of a sum of two densities over its own, so that neither is a difference of large
    logarithms: at small sigma they are 0 and 1/(1 - lambda) or 1/lambda to the last bit.
    """
    delete = torch.tensor(mixing, dtype=log_ratio.dtype, device=log_ratio.device)
    log_keep, log_delete = (1 - delete).log(), delete.log()
    w_x = (-torch.logaddexp(log_keep, log_delete + log_ratio)).exp()
    w_a = (-torch.logaddexp(log_keep - log_ratio, log_delete)).exp()
    return w_x, w_a


@dataclass(frozen=True)
class Mixture:
    """The keep and the delete loss of one prediction at m_t, row i of the retain batch mixed with row i of the other.

    A class-conditional model is asked under the condition of the component that was drawn, so what is drawn is the
    pair (m_t, c) and the weights are those of pairs. Where both rows carry the same condition (or the null one: it
    is dropped for both or for neither) that changes nothing. Where they differ, a pair tells which component it came
    from: the weights are 1/(1 - lambda) and 0, or 0 and 1/lambda. Both terms stay those of the ordinary conditional
    losses, on average, but such a row serves only one of them.
    """

    mixing: float
    null_share: float

    def __call__(self, ctx: StepContext, retain: Batch, forget: Batch) -> Sequence[Losses]:
        x = ctx.noised(retain)
        a = ctx.noised(forget, t=x.t, noise=x.noise)
        deleted = ctx.uniform(retain, "component") < self.mixing
        where = deleted.reshape(-1, *[1] * (x.x_0.dim() - 1))
        gap = x.signal * (x.x_0 - a.x_0) / x.sigma
        m = torch.where(where, a.x_t, x.x_t)
        keep = replace(x, x_t=m, noise=torch.where(where, x.noise - gap, x.noise))
        delete = replace(a, x_t=m, noise=torch.where(where, a.noise, a.noise + gap))
        # log q(m|a) - log q(m|x) = (|eps_x|^2 - |eps_a|^2) / 2, the difference of squares taken as a product.
        log_ratio = -0.5 * (gap * (keep.noise + delete.noise)).flatten(1).sum(1)
        condition, w_x, w_a = self._paired(ctx, retain, forget, deleted, importance_weights(log_ratio, self.mixing))
        prediction, target = ctx.predict(keep, condition), ctx.model.noising.target
        kept = w_x * ctx.divergence(prediction, target(keep))
        return Losses(kept, None, kept.detach()), Losses(w_a * ctx.divergence(prediction, target(delete)))

    def _paired(
        self, ctx: StepContext, retain: Batch, forget: Batch, deleted: Tensor, weights: tuple[Tensor, Tensor]
    ) -> tuple[Condition, Tensor, Tensor]:
        """The condition of the drawn component [b], and the weights of (m_t, c) given those of m_t."""
        w_x, w_a = weights
        of_x = condition_dropped(ctx, retain, self.null_share)
        # Under the retain batch's role both rows of a pair draw the same number.
        of_a = condition_dropped(ctx, replace(forget, role=retain.role), self.null_share)
        if of_x is None or of_a is None:
            return None, w_x, w_a
        same = of_x == of_a
        w_x = torch.where(same, w_x, (~deleted).to(w_x) / (1 - self.mixing))
        w_a = torch.where(same, w_a, deleted.to(w_a) / self.mixing)
        return ctx.model.conditions.where(deleted, of_a, of_x), w_x, w_a


@dataclass(frozen=True, kw_only=True)
class SISS:
    """Descend on what is kept, ascend on what is deleted, at one noisy sample of both.

    Whole classes are better deleted without importance sampling: rows of different classes share no pass (see
    :class:`Mixture`), so each term would learn from a part of its batch. The delete loss has no floor.

    Args:
        delete_share: norm of the delete gradient as a share of the keep gradient's; finds the superfactor s.
        mixing: lambda, the share of noisy samples drawn from delete data; 0 and 1 only for unconditional models.
        importance: one pass for both terms; false for two ordinary denoising losses, each on its own noisy samples.
        null_share: share of samples whose condition is dropped.
    """

    delete_share: float = 0.1
    mixing: float = 0.5
    importance: bool = True
    null_share: float = 0.1

    PAPER: ClassVar[str] = "arXiv:2503.01034"
    SUMMARY: ClassVar[str] = "descent on kept minus scaled ascent on deleted data, at one sample of their mixture"
    needs: ClassVar[Needs] = Needs(paired=True)

    def __post_init__(self) -> None:
        check_shares(self, "mixing", "null_share")
        check_finite(self, "delete_share")

    def prepare(self, ctx: StepContext, pairs: Pairs) -> State:
        """``counts``: how many samples are kept and how many deleted."""
        if pairs.forget is None:
            raise BadInput("siss needs a forget set, and none was given")
        if self.importance and self.mixing in (0, 1) and ctx.model.conditions.num_classes:
            # A pair (m, c) of the side that is never drawn has no chance at all, and no weight can mend that.
            raise BadInput(f"mixing must lie strictly between 0 and 1 for a model with classes, got {self.mixing}")
        return {"counts": torch.tensor([len(pairs.retain.indices), len(pairs.forget.indices)])}

    def direction(self, ctx: StepContext, pair: Pair, state: State) -> Direction:
        keep, delete = self._terms(ctx, pair)
        matrix = gram([keep.gradients, delete.gradients])
        norms = matrix.diagonal().sqrt()
        kept, deleted = state["counts"].tolist()
        keep_weight = torch.full_like(norms[0], (kept + deleted) / kept)
        delete_weight = -quotient(self.delete_share * keep_weight * norms[0], norms[1])
        log = {
            **record(retain=keep, forget=delete),
            "multiplier": delete_weight,
            "retain_weight": keep_weight,
            "cosine": cosine(matrix),
            "retain_norm": norms[0],
            "forget_norm": norms[1],
        }
        weights = torch.stack([keep_weight, delete_weight])
        return Direction(combine(weights, [keep.gradients, delete.gradients]), log, state)

    def _terms(self, ctx: StepContext, pair: Pair) -> list[Term]:
        if self.importance:
            return ctx.joint_gradients(Mixture(self.mixing, self.null_share), pair.retain, pair.forget)
        objective = Denoise(self.null_share)
        return ctx.gradients((objective, pair.retain), (objective, pair.forget))

    def forward_equivalents(self) -> float:
        """One pass and two backwards, or two students."""
        return 5 if self.importance else 6
