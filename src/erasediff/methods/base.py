"""The seam: what a method may touch, and what it gives back.

A method says which way to step. It never steps, never calls backward, never sees an optimiser or a scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from erasediff.data.pairs import Batch, Pair, Pairs
from erasediff.families.base import ClassConditions, Condition, Model, Noisy
from erasediff.solver.adam import Moments
from erasediff.solver.gram import Gradients

State = Mapping[str, Tensor]
NO_STATE: State = {}


class Losses(NamedTuple):
    """One loss per sample, and the least that each could be over all functions.

    ``loss``: [b]; ``floor``: [b], or ``None`` where the least is unknown; ``slack`` is ``loss - floor``.
    ``denoise``: [b], the ordinary denoising loss of the same predictions, where ``loss`` is another one: what a
    retain budget is measured by.
    ``residual``: [b, 2], the part of what tells the target's own answer from what is to come instead that the model
    still gives, and the whole of it; the sums of both columns over a batch say which share is left.
    """

    loss: Tensor
    floor: Tensor | None = None
    denoise: Tensor | None = None
    residual: Tensor | None = None


class Term(NamedTuple):
    """The outcome of one objective over one whole batch: losses [B] (no graph), and the gradients of their mean."""

    gradients: Gradients
    loss: Tensor
    floor: Tensor | None = None
    denoise: Tensor | None = None
    residual: Tensor | None = None

    @property
    def left(self) -> Tensor | None:
        """Share of the target's own answers that is left, 0-dim, 1 at theta_0; ``None`` where it is not known."""
        if self.residual is None:
            return None
        left, whole = self.residual.sum(0)
        return torch.where(whole > 0, left / whole, torch.zeros_like(left))

    @property
    def slack(self) -> Tensor | None:
        """Mean of loss - floor, 0-dim; ``None`` where the floor is unknown."""
        return None if self.floor is None else (self.loss - self.floor).mean()


class StepContext(Protocol):
    """All that a method may touch during one step."""

    model: Model
    progress: float
    """Share of the run's steps that are done, in [0, 1]; 0 where nothing runs, as while a method is prepared."""

    def noised(self, batch: Batch, *, t: Tensor | None = None, noise: Tensor | None = None) -> Noisy:
        """Noise a batch; what is not given is drawn as a function of (seed, step, the batch's role)."""

    def predict(self, noisy: Noisy, condition: Condition, *, frozen: bool = False) -> Tensor:
        """The denoiser's prediction [b, C, H, W]; ``frozen``: that of theta_0, without a graph, in the same mode."""

    def sample_to(
        self,
        batch: Batch,
        condition: Condition,
        *,
        t: float | None = None,
        guidance_scale: float,
        num_inference_steps: int,
    ) -> Noisy:
        """``x_t`` [b, C, H, W] drawn from noise by the model as it is now, without a graph, under ``condition`` with
        guidance; the batch's images are not looked at. One t for the whole batch.

        ``t``: where to stop, one of the sampler's ``num_inference_steps`` time steps; by default drawn, so that any
        ``num_inference_steps`` consecutive steps of the run stop once at each. ``x_0`` and ``noise`` of what comes
        back are NaN: nothing was noised. Raises BadInput for a t at which the sampler does not stop.
        """

    def divergence(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean squared difference per sample [b]."""

    def uniform(self, batch: Batch, purpose: str) -> Tensor:
        """Draws [b] from U[0, 1), a function of (seed, step, role, purpose)."""

    def uniform_like(self, batch: Batch, like: Tensor, purpose: str) -> Tensor:
        """Draws [b, C, H, W] from U[0, 1), a function of (seed, step, role, purpose)."""

    def gradients(self, *terms: tuple[Objective, Batch]) -> list[Term]:
        """Whole-batch losses and gradients of each term; micro-batches, precision and synchronisation happen here."""

    def joint_gradients(self, objective: JointObjective, first: Batch, second: Batch) -> list[Term]:
        """As :meth:`gradients`, for an objective over two batches of one size with several losses of one forward."""

    def squared_gradients(self, objective: Objective, batch: Batch) -> Gradients:
        """Mean over the batch of the squared gradient of each sample's loss: a diagonal Fisher matrix, in fp32."""

    def generate(
        self,
        labels: Tensor | None,
        count: int,
        purpose: str,
        *,
        num_inference_steps: int,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Images [count, C, H, W] in [-1, 1] drawn from the frozen model; ``labels``: [count]. 1: without guidance."""

    def averaged(self, values: Tensor) -> Tensor:
        """The mean of ``values`` over the processes that share the run, of whose batches each measured its own rows."""

    def weights(self) -> list[Tensor]:
        """The weights that are trained, as they are now, without a graph; in the order of every gradient list."""

    def moments(self) -> Moments | None:
        """Adam's state before this step, or ``None`` under another optimiser."""


Objective = Callable[[StepContext, Batch], Losses]
JointObjective = Callable[[StepContext, Batch, Batch], Sequence[Losses]]
"""Of a retain and a forget batch with the same rows: the losses share a forward pass."""


@dataclass(frozen=True)
class Direction:
    """Where to step: ``gradients`` take the place of the loss gradient in the optimiser. ``log`` is for the record."""

    gradients: Sequence[Tensor]
    log: dict[str, Any]
    state: State = field(default_factory=dict)
    mask: Sequence[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method cannot do without; ``list methods`` and the refusals read this.

    ``classes``: another class than the target's; ``own_condition``: conditions that ask for the target and nothing
    else, so that whole classes or a concept are forgotten; ``text_maps``: a model that reads text through known maps;
    ``moments``: Adam's moments, each in full; ``paired``: forget and retain batches of one size.
    """

    forget_set: bool = True
    retain_set: bool = True
    classes: bool = False
    null_condition: bool = False
    anchor: bool = False
    frozen: bool = False
    own_condition: bool = False
    text_maps: bool = False
    moments: bool = False
    paired: bool = False


class GradientMethod(Protocol):
    """A frozen keyword-only dataclass whose fields are its configuration and its flags."""

    PAPER: ClassVar[str]
    SUMMARY: ClassVar[str]

    @property
    def needs(self) -> Needs: ...

    def prepare(self, ctx: StepContext, pairs: Pairs) -> State:
        """Whatever must be computed once at theta_0 (masks, Fisher matrices): tensors, saved in every checkpoint."""

    def direction(self, ctx: StepContext, pair: Pair, state: State) -> Direction:
        """The direction of this step."""

    def forward_equivalents(self) -> float:
        """Cost of one step in forwards of one batch (a forward 1, a backward 2)."""


@dataclass(frozen=True, kw_only=True)
class Concepts:
    """What an edit is about, as labels of the model. ``erased``: what is to go; ``kept``: what is to stay as it is.

    ``instead``: for each erased label that of what it is to be read as; empty where nothing was named.
    """

    erased: tuple[int, ...]
    kept: tuple[int, ...]
    instead: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, conditions: ClassConditions) -> Self:
        """Those of the excluded classes, all to be read as the anchor where there is one; all others stay."""
        others = [label for label in (conditions.null_label, conditions.anchor) if label is not None]
        kept = {*conditions.classes(), *others} - {*conditions.excluded}
        instead = {} if conditions.anchor is None else dict.fromkeys(conditions.excluded, conditions.anchor)
        return cls(erased=conditions.excluded, kept=tuple(sorted(kept)), instead=instead)


@runtime_checkable
class WeightEdit(Protocol):
    """A method that needs no steps: a frozen keyword-only dataclass, as :class:`GradientMethod`."""

    PAPER: ClassVar[str]
    SUMMARY: ClassVar[str]

    @property
    def needs(self) -> Needs: ...

    def edit(self, model: Model, concepts: Concepts) -> dict[str, Tensor]:
        """New weights of ``model.denoiser`` by parameter name; the model itself is left alone."""

    def forward_equivalents(self) -> float:
        """Forwards of one batch, a step: 0."""


Method = GradientMethod | WeightEdit


@runtime_checkable
class Undecided(Protocol):
    """A method with a field ``auto`` that the model and the target decide."""

    def suited_to(self, conditions: ClassConditions) -> GradientMethod:
        """The same with every ``auto`` decided: what goes into the record."""


def decided(method: Method, conditions: ClassConditions) -> Method:
    """The method as it will run on a model of these conditions; most have nothing to decide."""
    return method.suited_to(conditions) if isinstance(method, Undecided) else method


def gradient_lists(method: GradientMethod) -> int:
    """How many gradients, each the size of all trained weights, a step of ``method`` holds at once at the most.

    Two terms and their weighted sum make three; a method that differs says so in ``GRADIENT_LISTS``.
    """
    return int(getattr(method, "GRADIENT_LISTS", 3))


def step_cost(method: Method, forget_share: float = 1.0) -> float:
    """Forwards of one batch that a step costs where the forget batch is ``forget_share`` of the retain batch.

    A method that does not say what it spends on the forget batch (``forget_forwards``) counts as if that were whole.
    """
    spent = getattr(method, "forget_forwards", lambda: 0.0)()
    return method.forward_equivalents() - (1 - forget_share) * spent


def measures_slack(method: Method) -> bool:
    """Whether each of its steps can log the slack of its forget loss: it says so, or can be told to (track_slack)."""
    return hasattr(method, "track_slack") or bool(getattr(method, "FLOOR_KNOWN", False))


class Stateless:
    """For methods that prepare nothing."""

    def prepare(self, ctx: StepContext, pairs: Pairs) -> State:  # noqa: ARG002
        return NO_STATE


def record(*, retain: Term | None = None, forget: Term | None = None) -> dict[str, Tensor]:
    """The entries of ``metrics.jsonl`` that follow from the terms themselves, as 0-dim tensors."""
    entries: dict[str, Tensor] = {}
    if retain is not None:
        entries["retain_loss"] = retain.loss.mean()
        if retain.denoise is not None:
            entries["retain_denoise_loss"] = retain.denoise.mean()
    if forget is not None:
        entries["forget_loss"] = forget.loss.mean()
        if forget.slack is not None:
            entries["slack"] = forget.slack
        if (left := forget.left) is not None:
            entries["residual"] = left
    return entries
