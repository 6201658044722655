"""What the officially released code of EraseDiff does to a class-conditional DDPM, written anew from a description.

Not a method of the library: it steps twice in one place and puts weights back, which no direction can express.

    a run    epochs x outer_steps rounds (4 x 2)
    a round  1. inner loop: inner_steps (K = 2) passes over the whole forget loader, Adam on the forget loss alone;
                then the weights are put back, but neither Adam's moments nor its step counts are
             2. outer pass: as many steps as there are retain batches for each class, on L_r + lambda (L_f - V);
                V is the mean loss along the last inner pass: a constant, so no gradient sees it

The description gives counts and no nesting; this one fits all of them, and it is inferred, not read in that code.

                                                      inner steps        outer steps      forwards x 1e6
    CIFAR-10: 5,000 / 45,000 images, batch 128     8 x 2 x 40 = 640     8 x 36 = 288     0.33 + 0.26 = 0.59
    digits: 178 / 1,619 images, batch 16, 13 epochs  26 x 2 x 12 = 624   26 x 11 = 286    (910 optimiser steps)

Here 40 and 12 are the forget batches, the short last one included, and 36 = ceil(352 / 10) and 11 = ceil(102 / 10)
the retain batches over ten classes. A run with 36 forget batches (4,500 images) would have spent 0.29 million in the
inner loop, and 12 is not 11. Batch 16 and 13 epochs for the digits are the whole numbers that give 286 of 910.
A forward is of one image; an inner step costs 4 (target 1, student 1 + 2), an outer one 7, an adaptive one 11.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from erasediff.data.images import ImageData, as_floats
from erasediff.data.targets import Split
from erasediff.errors import BadInput
from erasediff.families.base import Condition, Model, Noisy
from erasediff.solver.gram import gram

BACKWARD = 2  # in forwards


@dataclass(frozen=True, kw_only=True)
class Settings:
    """As released; the switches from ``multiplier`` on mend one fault each.

    Args:
        epochs: epochs, of ``outer_steps`` rounds each.
        outer_steps: outer passes in an epoch; each begins with an inner loop of its own.
        inner_steps: passes over the forget loader in an inner loop; 0 for none.
        batch_size: samples of each of the forget and the retain batch.
        forget_batch_size: of the forget batch of an outer step, where it is another.
        learning_rate: of the one Adam that serves both loops.
        adam_beta1: decay of its first moment.
        adam_beta2: decay of its second moment.
        max_grad_norm: gradients of both loops are scaled down to this norm.
        ema_decay: of the averaged weights, from the first outer step on without warm-up; they are what is saved.
        condition_drop: share of samples whose condition the student does not see, forget and retain alike.
        multiplier: the constant lambda.
        adaptive: lambda = max(0, eta - cos(g_r, g_f)) instead.
        eta: of the adaptive lambda; the description does not give it.
        restore_optimizer: put Adam's state and the random state back after the inner loop, not the weights alone.
        frozen_teacher: the target comes from the model as it was, not as it is.
        relabel_per_sample: another class for each forget sample instead of one for the whole batch.
        seed: of the one stream that everything random comes from.
    """

    epochs: int = 4
    outer_steps: int = 2
    inner_steps: int = 2
    batch_size: int = 128
    forget_batch_size: int | None = None
    learning_rate: float = 1e-4
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    ema_decay: float = 0.99
    condition_drop: float = 0.1
    multiplier: float = 0.1
    adaptive: bool = False
    eta: float = 1.0
    restore_optimizer: bool = False
    frozen_teacher: bool = False
    relabel_per_sample: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"epochs": 1, "outer_steps": 1, "inner_steps": 0, "batch_size": 1, "seed": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise BadInput(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if self.forget_batch_size is not None and self.forget_batch_size < 1:
            raise BadInput(f"forget_batch_size must be at least 1, got {self.forget_batch_size}")
        for name in ("learning_rate", "max_grad_norm", "eta"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("ema_decay", "condition_drop", "adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    def planned(self, forget: int, retain: int, classes: int) -> tuple[int, int]:
        """Inner and outer optimiser steps of a run on so many forget and retain samples."""
        rounds, passes = self.epochs * self.outer_steps, math.ceil(forget / self.batch_size)
        return rounds * self.inner_steps * passes, rounds * math.ceil(math.ceil(retain / self.batch_size) / classes)


@dataclass(frozen=True)
class Step:
    """One optimiser step taken.

    ``kind``: inner or outer; ``number``: steps of both kinds so far; ``outer``: outer steps so far; ``log``: losses,
    lambda and V as detached 0-dim tensors (nothing here waits for the device).
    """

    kind: str
    number: int
    outer: int
    log: dict[str, Tensor]


class ReleasedCode:
    """The loop as an iterator of steps; between two of them it may be left, timed, and its average be asked.

    ``model.denoiser`` is trained in place. After an inner step it carries the inner weights, which are put back only
    as the next step is asked for, so ask :meth:`averaged`. Student and teacher run without dropout, as in the library.
    """

    def __init__(self, model: Model, data: ImageData, split: Split, settings: Settings) -> None:
        self.conditions = replace(model.conditions, excluded=split.classes)
        if not split.classes or not self.conditions.classes() or data.labels is None:
            raise BadInput("the released code forgets whole classes, and needs a class that remains to relabel them to")
        self.model, self.data, self.split, self.settings = model, data, split, settings
        self.denoiser = model.denoiser.eval().requires_grad_(True)
        self.parameters = list(self.denoiser.parameters())
        self.device = self.parameters[0].device
        self.teacher = self.denoiser
        if settings.frozen_teacher:
            self.teacher = copy.deepcopy(self.denoiser).requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=settings.learning_rate, betas=(settings.adam_beta1, settings.adam_beta2)
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.source = torch.Generator(self.device).manual_seed(settings.seed)
        self.planned = settings.planned(len(split.forget), len(split.retain), self.conditions.num_classes)
        self.number = self.outer = 0
        self.spent = 0.0  # in forwards of one sample
        self._steps = self._run()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        return next(self._steps)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Within the block the denoiser carries the averaged weights: what a run that ended now would save."""
        held = self._weights()
        self._put(self.average)
        try:
            yield self.denoiser
        finally:
            self._put(held)

    def _run(self) -> Iterator[Step]:
        rounds = self.settings.epochs * self.settings.outer_steps
        for _ in range(rounds):
            value = yield from self._inner()
            yield from self._outer(value, self.planned[1] // rounds)

    def _inner(self) -> Generator[Step, None, Tensor]:
        """Descend on the forget loss, put the weights back, and return the mean loss along the last pass."""
        weights, stream = self._weights(), self.source.get_state()
        adam = copy.deepcopy(self.optimizer.state_dict()) if self.settings.restore_optimizer else None
        losses: list[Tensor] = []
        for _ in range(self.settings.inner_steps):
            losses = []
            for rows in self._batches(self.split.forget):
                loss = self.forget_loss(rows)
                loss.backward()
                self.spent += BACKWARD * len(rows)
                losses.append(loss.detach())
                yield self._step("inner", {"forget_loss": losses[-1]})
        self._put(weights)
        if adam is not None:
            self.optimizer.load_state_dict(adam)
            self.source.set_state(stream)
        return torch.stack(losses).mean() if losses else torch.zeros((), device=self.device)

    def _outer(self, value: Tensor, steps: int) -> Iterator[Step]:
        forgotten = self._endless(self.split.forget, self.settings.forget_batch_size)
        for kept in islice(self._endless(self.split.retain), steps):
            rows = next(forgotten)
            retain, forget = self.retain_loss(kept), self.forget_loss(rows)
            asked = BACKWARD * (len(kept) + len(rows))
            factor = torch.tensor(self.settings.multiplier, device=self.device)
            if self.settings.adaptive:
                # A backward pass for each loss and one more for their sum: the two gradients are not used again.
                factor, asked = self._adaptive(retain, forget), 2 * asked
            (retain + factor * (forget - value)).backward()
            self.spent += asked
            log = {"retain_loss": retain.detach(), "forget_loss": forget.detach(), "multiplier": factor}
            yield self._step("outer", {**log, "value": value})

    def _adaptive(self, retain: Tensor, forget: Tensor) -> Tensor:
        both = [
            torch.autograd.grad(loss, self.parameters, retain_graph=True, materialize_grads=True, allow_unused=True)
            for loss in (retain, forget)
        ]
        matrix = gram(both)
        cosine = matrix[0, 1] / (matrix[0, 0] * matrix[1, 1]).sqrt().clamp_min(torch.finfo(matrix.dtype).tiny)
        return (self.settings.eta - cosine).clamp_min(0).float()

    def _step(self, kind: str, log: dict[str, Tensor]) -> Step:
        """Clip and step. The average follows the outer steps only: inner weights are thrown away."""
        nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.number += 1
        if kind == "outer":
            self.outer += 1
            for mean, parameter in zip(self.average, self.parameters, strict=True):
                mean.lerp_(parameter.detach(), 1 - self.settings.ema_decay)
        return Step(kind, self.number, self.outer, log)

    def retain_loss(self, rows: Tensor) -> Tensor:
        """The ordinary denoising loss on the samples ``rows`` [b], a mean over samples and elements."""
        noisy, labels = self._noised(rows)
        return (self._student(noisy, labels) - self.model.noising.target(noisy)).square().mean()

    def forget_loss(self, rows: Tensor) -> Tensor:
        """The distance to what the teacher says under another class, a mean over samples and elements."""
        noisy, labels = self._noised(rows)
        count = len(rows) if self.settings.relabel_per_sample else 1
        other = self.other_class(labels, torch.rand(count, generator=self.source, device=self.device))
        with torch.no_grad():
            target = self.model.ask(self.teacher, noisy.x_t, noisy.t, other)
        self.spent += len(rows)
        return (self._student(noisy, labels) - target).square().mean()

    def other_class(self, labels: Tensor, drawn: Tensor) -> Condition:
        """A class that stays for each sample [b], or for all the same one where ``drawn`` holds a single number."""
        return self.conditions.other(labels, drawn.expand(len(labels)))

    def _student(self, noisy: Noisy, labels: Tensor) -> Tensor:
        asked, null = self.conditions.own(labels), self.conditions.null_label
        if null is not None and self.settings.condition_drop:
            dropped = torch.rand(len(labels), generator=self.source, device=self.device) < self.settings.condition_drop
            asked = self.conditions.where(dropped, self.conditions.null(labels), asked)
        self.spent += len(labels)
        return self.model.ask(self.denoiser, noisy.x_t, noisy.t, asked)

    def _noised(self, rows: Tensor) -> tuple[Noisy, Tensor]:
        x_0 = self.model.encode(as_floats(self.data.images[rows].to(self.device)))
        noise = torch.randn(x_0.shape, generator=self.source, device=self.device)
        steps = self.model.noising.num_train_timesteps
        t = torch.randint(steps, (len(rows),), generator=self.source, device=self.device)
        return self.model.noising.noised(x_0, noise, t), self.data.labels[rows].to(self.device)

    def _batches(self, indices: Tensor, size: int | None = None) -> Iterator[Tensor]:
        """One pass over a set in a fresh order; the last batch may be short."""
        order = torch.randperm(len(indices), generator=self.source, device=self.device).cpu()
        yield from indices[order].split(size or self.settings.batch_size)

    def _endless(self, indices: Tensor, size: int | None = None) -> Iterator[Tensor]:
        while True:
            yield from self._batches(indices, size)

    def _weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def _put(self, weights: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, weights, strict=True):
            parameter.copy_(value)


def released(model: Model, data: ImageData, split: Split, settings: Settings | None = None) -> ReleasedCode:
    """The loop on ``model``, which it changes: iterate over it, one optimiser step at a time."""
    return ReleasedCode(model, data, split, settings or Settings())
