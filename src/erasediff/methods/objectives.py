"""Objectives: functions of (context, batch) with one loss per sample, from which methods are composed.

Each forget objective knows the least value that any function could reach (its *floor*), per sample, so that the
slack ``loss - floor`` is known without an inner minimisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erasediff.data.pairs import Batch
from erasediff.families.base import Condition, Noisy
from erasediff.methods.base import Losses, Objective, StepContext
from erasediff.methods.timesteps import UNIFORM, Timesteps
from erasediff.solver.floors import drawn_teacher_floor, uniform_noise_floor


def dropped(ctx: StepContext, batch: Batch, share: float) -> Tensor | None:
    """Whose condition is dropped [b]; ``None`` where nobody's is."""
    if share == 0 or ctx.model.conditions.null_label is None:
        return None
    return ctx.uniform(batch, "drop") < share


def condition_dropped(ctx: StepContext, batch: Batch, share: float) -> Condition:
    """Each sample's own condition, or for a share of them the null condition (classifier-free guidance training)."""
    conditions = ctx.model.conditions
    own = conditions.own(batch.labels)
    if own is None or (without := dropped(ctx, batch, share)) is None:
        return own
    return conditions.where(without, conditions.null(batch.labels), own)


@dataclass(frozen=True)
class Denoise:
    """The ordinary denoising loss (Ho et al. 2020, arXiv:2006.11239, eq. 14, in the model's own prediction type)."""

    null_share: float

    def __call__(self, ctx: StepContext, batch: Batch) -> Losses:
        noisy = ctx.noised(batch)
        prediction = ctx.predict(noisy, condition_dropped(ctx, batch, self.null_share))
        loss = ctx.divergence(prediction, ctx.model.noising.target(noisy))
        return Losses(loss, None, loss.detach())


@dataclass(frozen=True)
class Distill:
    """Agree with the frozen model under the same condition: the retain loss without the variance of the noise."""

    null_share: float

    def __call__(self, ctx: StepContext, batch: Batch) -> Losses:
        noisy = ctx.noised(batch)
        condition = condition_dropped(ctx, batch, self.null_share)
        prediction = ctx.predict(noisy, condition)
        loss = ctx.divergence(prediction, ctx.predict(noisy, condition, frozen=True))
        denoise = ctx.divergence(prediction.detach(), ctx.model.noising.target(noisy))
        return Losses(loss, torch.zeros_like(loss), denoise)


@dataclass(frozen=True)
class Blend:
    """Denoise and distill at once: agree with the mean of the true target and the frozen model's answer.

    Its gradient has half the noise of the denoising loss's, and still leads to a model better than the frozen one.
    The least value is unknown: it holds a quarter of the variance of the true target.
    """

    null_share: float

    def __call__(self, ctx: StepContext, batch: Batch) -> Losses:
        return _between(ctx, batch, self.null_share, 0.5)


@dataclass(frozen=True)
class Anneal:
    """Distill at first, denoise in the end: agree with (1 - p) times the frozen model's answer and p times the true
    target, where p is the share of the run that is done.

    While forgetting moves the other classes, what brings them back has no noise; once they are back, the model may
    become better than the frozen one. The least value is unknown: it holds p^2 times the variance of the true target.
    """

    null_share: float

    def __call__(self, ctx: StepContext, batch: Batch) -> Losses:
        return _between(ctx, batch, self.null_share, ctx.progress)


def _between(ctx: StepContext, batch: Batch, null_share: float, truth: float) -> Losses:
    """The loss towards (1 - truth) times the frozen model's answer and truth times the true target."""
    noisy = ctx.noised(batch)
    condition = condition_dropped(ctx, batch, null_share)
    prediction, target = ctx.predict(noisy, condition), ctx.model.noising.target(noisy)
    frozen = ctx.predict(noisy, condition, frozen=True)
    loss = ctx.divergence(prediction, torch.lerp(frozen, target, truth))
    return Losses(loss, None, ctx.divergence(prediction.detach(), target))


@dataclass(frozen=True)
class UniformNoise:
    """Predict noise drawn from U[0, 1) instead of the noise that was added (EraseDiff, arXiv:2401.05779, L_f).

    The loss is the squared error of the noise that the prediction implies, so that it means the same under every
    prediction type; its floor is 1/12 per element, times the weight that keeps models of x_0 finite at small sigma.
    """

    null_share: float
    timesteps: Timesteps = UNIFORM

    def __call__(self, ctx: StepContext, batch: Batch) -> Losses:
        noisy = self.timesteps.noised(ctx, batch)
        prediction = ctx.predict(noisy, condition_dropped(ctx, batch, self.null_share))
        noising = ctx.model.noising
        # Without signal nothing is implied: the noise is all there is, whatever the prediction says.
        weight = noising.noise_weight(noisy) * (noisy.signal > 0)
        target = ctx.uniform_like(batch, noisy.noise, "forget_noise")
        scale = weight.sqrt()
        loss = ctx.divergence(scale * noising.implied_noise(prediction, noisy), scale * target)
        return Losses(loss, weight.flatten().float() * uniform_noise_floor())


@dataclass(frozen=True)
class Relabel:
    """Agree with the frozen model under *another class*, drawn per sample, at the same ``x_t``.

    With ``repulsion`` r > 0 the target is pushed on, away from what the frozen model says of the sample's own class:
    other + r (other - own), the negative guidance of ESD (arXiv:2303.07345) against another class; one more frozen
    pass. The mean over other classes still looks like the own class now and then; pushed on it does not.

    ``weights`` [K, K] say how likely each other class is (see :mod:`erasediff.methods.others`). ``watched``: say which
    part of the own answer is left, where that takes one more frozen pass too.

    The floor is the variance of the frozen model over the drawn classes; estimated without bias by a second,
    independent draw, at the cost of one more pass of the frozen model, where ``floor`` is asked for.
    """

    null_share: float
    floor: bool = False
    repulsion: float = 0.0
    timesteps: Timesteps = UNIFORM
    weights: Tensor | None = None
    watched: bool = False

    def __call__(self, ctx: StepContext, batch: Batch) -> Losses:
        noisy = self.timesteps.noised(ctx, batch)
        prediction = ctx.predict(noisy, condition_dropped(ctx, batch, self.null_share))
        other = self._other(ctx, batch, noisy, "other")
        target, residual = other, None
        if self.repulsion or self.watched:
            own = ctx.predict(noisy, ctx.model.conditions.own(batch.labels), frozen=True)
            target = other + self.repulsion * (other - own)
            residual = _residual(prediction.detach(), own, other)
        losses = Losses(ctx.divergence(prediction, target), residual=residual)
        if not self.floor:
            return losses
        second = self._other(ctx, batch, noisy, "second_other")
        return losses._replace(floor=(1 + self.repulsion) ** 2 * drawn_teacher_floor(other, second))

    def _other(self, ctx: StepContext, batch: Batch, noisy: Noisy, purpose: str) -> Tensor:
        other = ctx.model.conditions.other(batch.labels, ctx.uniform(batch, purpose), self.weights)
        return ctx.predict(noisy, other, frozen=True)


def _residual(prediction: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """[b, 2]: the inner product of ``prediction - other`` with ``own - other``, and the squared norm of the latter."""
    apart = (own - other).flatten(1)
    return torch.stack([((prediction - other).flatten(1) * apart).sum(1), apart.square().sum(1)], 1)


@dataclass(frozen=True)
class Anchor:
    """Agree with the frozen model under the anchor's condition, at the same ``x_t`` (arXiv:2303.13516, noise-based).

    ``repulsion``: as in :class:`Relabel`. Floor 0: the model can be it.
    """

    null_share: float
    repulsion: float = 0.0
    timesteps: Timesteps = UNIFORM

    def __call__(self, ctx: StepContext, batch: Batch) -> Losses:
        noisy = self.timesteps.noised(ctx, batch)
        conditions = ctx.model.conditions
        target = ctx.predict(noisy, conditions.anchored(batch.labels), frozen=True)
        if self.repulsion:
            own = ctx.predict(noisy, conditions.own(batch.labels), frozen=True)
            target = target + self.repulsion * (target - own)
        loss = ctx.divergence(ctx.predict(noisy, condition_dropped(ctx, batch, self.null_share)), target)
        return Losses(loss, torch.zeros_like(loss))


@dataclass(frozen=True)
class Unconditional:
    """Agree with the frozen model under the null condition, at the same ``x_t``. Floor 0: the model can be it.

    The frozen model draws the target at its share of the data under the null condition, so this cannot forget
    further than that share, and dropping the student's condition as well would teach it nothing.
    """

    timesteps: Timesteps = UNIFORM

    def __call__(self, ctx: StepContext, batch: Batch) -> Losses:
        noisy = self.timesteps.noised(ctx, batch)
        conditions = ctx.model.conditions
        teacher = ctx.predict(noisy, conditions.null(batch.labels), frozen=True)
        loss = ctx.divergence(ctx.predict(noisy, conditions.own(batch.labels)), teacher)
        return Losses(loss, torch.zeros_like(loss))


@dataclass(frozen=True)
class Hellinger:
    """1 - exp(-loss) of another objective: the squared Hellinger distance of two unit Gaussians, up to scaling.

    Its gradient is that of the loss times exp(-loss), so samples far from their target do not dominate the batch.
    The least value over all functions is known only where that of the loss is 0.
    """

    objective: Objective

    def __call__(self, ctx: StepContext, batch: Batch) -> Losses:
        inner = self.objective(ctx, batch)
        known = inner.floor is not None and not bool(inner.floor.any())
        return inner._replace(loss=-torch.expm1(-inner.loss), floor=inner.floor if known else None)


@dataclass(frozen=True)
class Held:
    """A retain objective in which some classes count for more than others: ``counts`` [num_classes].

    They do so while forgetting moves them; when a run ends, all count alike. So do samples whose condition is dropped:
    what a model says without a condition depends on how often it sees each class, what it says of a class does not.
    """

    objective: Denoise | Distill | Blend | Anneal
    counts: Tensor

    def __call__(self, ctx: StepContext, batch: Batch) -> Losses:
        inner = self.objective(ctx, batch)
        own = ctx.model.conditions.own(batch.labels)
        if own is None:
            return inner
        counts = torch.lerp(self.counts.to(inner.loss)[own], torch.ones_like(inner.loss), ctx.progress)
        if (without := dropped(ctx, batch, self.objective.null_share)) is not None:
            counts = counts.masked_fill(without, 1.0)
        floor = None if inner.floor is None else counts * inner.floor
        return inner._replace(loss=counts * inner.loss, floor=floor)


RETAIN_OBJECTIVES: dict[str, type[Denoise] | type[Distill] | type[Blend] | type[Anneal]] = {
    "anneal": Anneal,
    "blend": Blend,
    "denoise": Denoise,
    "distill": Distill,
}


def retain_cost(name: str) -> int:
    """Forwards of one batch that a retain objective takes: a student's and its backward, and a frozen pass in all but
    ``denoise``."""
    return 3 + (name != "denoise")
