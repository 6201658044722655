"""What a method may touch during one step. The only code that calls backward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from erasediff.data.pairs import Batch
from erasediff.errors import BadInput
from erasediff.families.base import Condition, Model, Noisy, encoded_shape
from erasediff.families.precision import FULL, autocast
from erasediff.methods.base import JointObjective, Objective, Term
from erasediff.randomness import derived_seed, generator
from erasediff.solver.adam import Moments
from erasediff.solver.gram import Gradients
from erasediff.training import drawing
from erasediff.training.copies import Copies
from erasediff.training.lora import Adapters, SwitchedOff
from erasediff.training.optimizer import moments
from erasediff.training.processes import Processes

BACKWARD = 2  # in forwards
FORWARD_AND_BACKWARD = 1 + BACKWARD


class Context:
    """Implements :class:`erasediff.methods.base.StepContext` for one model on any number of processes.

    theta and theta_0 are asked in the same mode: both as in sampling (no dropout) while erasing, or with dropout
    drawn afresh from (seed, step) where ``dropout`` is set (plain training).
    """

    def __init__(
        self,
        model: Model,
        trained: Mapping[str, nn.Parameter],
        processes: Processes,
        *,
        seed: int,
        micro_batch: int,
        mixed_precision: str = FULL,
        frozen: bool = True,
        dropout: bool = False,
        channels_last: bool = False,
        sample_latents: bool = False,
        optimizer: torch.optim.Optimizer | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        self.model, self.trained, self.processes = model, list(trained.values()), processes
        self.seed, self.micro_batch, self.step, self.progress = seed, micro_batch, 0, 0.0
        self.mixed_precision = mixed_precision
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.optimizer, self.sample_latents = optimizer, sample_latents
        self.copies = Copies(model, trained)
        # What was asked of the network so far, in forwards of one sample: measured, not declared.
        self.spent = 0.0
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=mixed_precision == "fp16")
        model.denoiser.train(dropout)
        # theta_0 is copied before anyone can step; it never needs a graph. Under a LoRA it need not be copied.
        self.teacher: Any = None
        if frozen:
            switched = adapters and SwitchedOff(adapters)
            self.teacher = switched or copy.deepcopy(model.denoiser).requires_grad_(False)
        self.student = processes.distributed(model.denoiser)

    def begin(self, step: int, *, of: int | None = None) -> None:
        """Enter a step: everything drawn from here on is a function of (seed, step, purpose). ``of``: steps of the
        whole run, where it is known."""
        self.step = step
        self.progress = 0.0 if of is None else min(step / of, 1.0)

    def _drawn(self, batch: Batch, purpose: str, draw: Callable[..., Tensor], *shape: int) -> Tensor:
        """This batch's rows [b, *shape] of what ``draw`` makes for the whole batch."""
        device = self.processes.device
        source = generator(self.seed, self.step, f"{batch.role}/{purpose}", device)
        whole = draw((batch.total, *shape), generator=source, device=device)
        return whole[batch.start : batch.start + len(batch)]

    def uniform(self, batch: Batch, purpose: str) -> Tensor:
        return self._drawn(batch, purpose, torch.rand)

    def uniform_like(self, batch: Batch, like: Tensor, purpose: str) -> Tensor:
        return self._drawn(batch, purpose, torch.rand, *like.shape[1:])

    def noised(self, batch: Batch, *, t: Tensor | None = None, noise: Tensor | None = None) -> Noisy:
        x_0 = self._clean(batch)
        if t is None:
            t = self._drawn(batch, "t", partial(torch.randint, self.model.noising.num_train_timesteps))
        if noise is None:
            noise = self._drawn(batch, "noise", torch.randn, *x_0.shape[1:])
        return self.model.noising.noised(x_0, noise, t)

    def _clean(self, batch: Batch) -> Tensor:
        """``x_0`` of a batch: its latents where they are known, the posterior's mean or one draw from it."""
        if batch.encoded is None:
            return self.model.encode(batch.images)
        mean, deviation = batch.encoded.unbind(1)
        if not self.sample_latents:
            return mean
        return mean + deviation * self._drawn(batch, "latents", torch.randn, *mean.shape[1:])

    def predict(self, noisy: Noisy, condition: Condition, *, frozen: bool = False) -> Tensor:
        denoiser = self.teacher if frozen else self.student
        if denoiser is None:
            raise BadInput("this method asks the frozen model but does not declare needs.frozen")
        self.spent += len(noisy.x_t) * (1 if frozen else FORWARD_AND_BACKWARD)
        if self.copies.held and not frozen:
            return self.copies.ask(noisy, condition)
        x_t = noisy.x_t.contiguous(memory_format=self.layout)
        if not frozen:
            with self._autocast():
                return self.model.ask(denoiser, x_t, noisy.t, condition).float()
        # What a method prepares asks for whole batches: never more at a time than a step has to hold.
        size = self.micro_batch
        conditions = [None] * len(x_t) if condition is None else condition.split(size)
        with torch.no_grad(), self._autocast():
            pieces = zip(x_t.split(size), noisy.t.split(size), conditions, strict=False)
            return torch.cat([self.model.ask(denoiser, x, t, c).float() for x, t, c in pieces])

    def sample_to(
        self,
        batch: Batch,
        condition: Condition,
        *,
        t: float | None = None,
        guidance_scale: float,
        num_inference_steps: int,
    ) -> Noisy:
        x_T = self._drawn(batch, "x_T", torch.randn, *self.encoded_shape)
        with self._autocast():
            return drawing.until(self, batch, x_T, condition, t, guidance_scale, num_inference_steps)

    @cached_property
    def encoded_shape(self) -> tuple[int, ...]:
        """[C, H, W] of what the denoiser is trained on."""
        return encoded_shape(self.model)

    def _autocast(self) -> AbstractContextManager[object]:
        return autocast(self.processes.device, self.mixed_precision)

    def divergence(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().flatten(1).mean(1)

    def gradients(self, *terms: tuple[Objective, Batch]) -> list[Term]:
        return [self._gradient(objective, batch) for objective, batch in terms]

    def _gradient(self, objective: Objective, batch: Batch) -> Term:
        """Accumulate one term over its micro-batches, and lift the whole batch's gradient out of ``.grad``."""
        parts = []
        pieces = list(batch.split(self.micro_batch))
        for piece in pieces:
            self._seed_dropout(piece)
            with self._unsynchronised(piece is not pieces[-1]):
                losses = objective(self, piece)
                # Divided by this process's rows: DDP then averages over processes.
                self.scaler.scale(losses.loss.sum() / len(batch)).backward()
            parts.append([None if x is None else x.detach() for x in losses])
        lifted = [p.grad for p in self.trained]
        for parameter in self.trained:
            parameter.grad = None
        return self._term(self._unscaled(lifted), parts)

    def joint_gradients(self, objective: JointObjective, first: Batch, second: Batch) -> list[Term]:
        """Several losses of one forward pass: what they share is computed once, each has a backward of its own."""
        totals: list[list[Tensor | None]] = []
        parts: list[list[list[Tensor | None]]] = []
        for pair in zip(first.split(self.micro_batch), second.split(self.micro_batch), strict=True):
            self._seed_dropout(pair[0])
            with self._unsynchronised(True):
                found = objective(self, *pair)
            totals = totals or [[None] * len(self.trained) for _ in found]
            parts = parts or [[] for _ in found]
            # The forward was counted with one backward.
            self.spent += BACKWARD * len(pair[0]) * (len(found) - 1)
            for number, losses in enumerate(found):
                mean = self.scaler.scale(losses.loss.sum() / len(first))
                more = number + 1 < len(found)
                grads = torch.autograd.grad(mean, self.trained, retain_graph=more, allow_unused=True)
                totals[number] = [_added(a, b) for a, b in zip(totals[number], grads, strict=True)]
                parts[number].append([None if x is None else x.detach() for x in losses])
        # These gradients never passed through ``.grad``, so nothing has averaged them over the processes yet.
        averaged = [self.processes.averaged(self._unscaled(total)) for total in totals]
        return [self._term(gradients, column) for gradients, column in zip(averaged, parts, strict=True)]

    def squared_gradients(self, objective: Objective, batch: Batch) -> Gradients:
        """As if each sample went alone: backward, square, add. All at once is faster, so each gets its own weights."""
        total = [torch.zeros_like(p) for p in self.trained]
        with self.copies.one_by_one(self.micro_batch) as rows:
            for piece in batch.split(rows):
                self._seed_dropout(piece)
                copies = self.copies.make(len(piece))
                found = torch.autograd.grad(objective(self, piece).loss.sum(), copies, allow_unused=True)
                for t, g in zip(total, found, strict=True):
                    if g is not None:
                        t += g.square().sum(0)
        # Divided by this process's rows, as in ``_gradient``; nothing has averaged over the processes yet.
        return self.processes.averaged([t / len(batch) for t in total])

    def _unscaled(self, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 1.0
        return [
            torch.zeros_like(p) if g is None else g if scale == 1.0 else g / scale
            for p, g in zip(self.trained, gradients, strict=True)
        ]

    def _term(self, gradients: Gradients, parts: Sequence[Sequence[Tensor | None]]) -> Term:
        loss, *others = (self._whole(column) for column in zip(*parts, strict=True))
        if loss is None:
            raise BadInput("an objective returned no loss")
        return Term(gradients, loss, *others)

    def generate(
        self,
        labels: Tensor | None,
        count: int,
        purpose: str,
        *,
        num_inference_steps: int,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        source = generator(self.seed, self.step, f"generate/{purpose}", self.processes.device)
        x_T = torch.randn((count, *self.encoded_shape), generator=source, device=self.processes.device)
        with self._autocast():
            return drawing.images(self, x_T, labels, guidance_scale, num_inference_steps)

    def averaged(self, values: Tensor) -> Tensor:
        return self.processes.averaged([values.to(self.processes.device)])[0].to(values.device)

    def weights(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.trained]

    def _whole(self, column: Sequence[Tensor | None]) -> Tensor | None:
        given = [x for x in column if x is not None]
        return self.processes.gathered(torch.cat(given)) if given else None

    def _unsynchronised(self, more_to_come: bool) -> AbstractContextManager[object]:
        no_sync = getattr(self.student, "no_sync", None)
        return no_sync() if more_to_come and no_sync is not None else nullcontext()

    def _seed_dropout(self, batch: Batch) -> None:
        # Dropout layers draw from the global stream only; seeding it afresh makes them a function of the step too.
        if self.model.denoiser.training:
            torch.manual_seed(derived_seed(self.seed, self.step, f"{batch.role}/dropout/{batch.start}"))

    def moments(self) -> Moments | None:
        # A step that the loss scaler skips is none of Adam's: only then is its own count asked for, which waits for it.
        steps = None if self.scaler.is_enabled() else self.step
        return None if self.optimizer is None else moments(self.optimizer, self.trained, steps)


def _added(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    if total is None or more is None:
        return more if total is None else total
    return total + more
