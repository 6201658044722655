"""The loop: one direction, one optimiser step, again. The only code that steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from erasediff.data.pairs import Pairs
from erasediff.errors import BadInput
from erasediff.families.base import InLatents, Model
from erasediff.methods.base import Direction, GradientMethod, State
from erasediff.training.checkpoint import Checkpoint, load_optimizer, optimizer_tensors
from erasediff.training.config import TrainingConfig
from erasediff.training.context import Context
from erasediff.training.ema import Average
from erasediff.training.lora import Adapters, attach
from erasediff.training.optimizer import optimizer as adam
from erasediff.training.parameters import select
from erasediff.training.processes import Processes
from erasediff.training.quantised import quantise
from erasediff.training.schedule import learning_rate
from erasediff.training.stopping import SKIPPED, Stopping


@dataclass(frozen=True)
class Step:
    """One step taken: its number, and entries for the log (0-dim tensors still on the device, or floats)."""

    number: int
    log: dict[str, Any]


@dataclass
class Session:
    """Everything a run holds between two steps. Nothing random is held: that is a function of (seed, step)."""

    model: Model
    method: GradientMethod
    pairs: Pairs
    config: TrainingConfig
    trained: dict[str, nn.Parameter]
    context: Context
    optimizer: torch.optim.Optimizer
    average: Average | None
    stopping: Stopping
    state: State
    preparation_seconds: float = 0.0
    step: int = 0
    adapters: Adapters | None = None
    started: float = field(default_factory=time.perf_counter)


def start(
    model: Model,
    method: GradientMethod,
    pairs: Pairs,
    config: TrainingConfig,
    *,
    processes: Processes | None = None,
    dropout: bool = False,
    checkpoint: Checkpoint | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> Session:
    """Set up a run of ``method`` on ``model``, at its beginning or where ``checkpoint`` left it.

    ``model`` must carry theta_0 (the base weights) in either case: the frozen model is copied from it, or with a rank
    is it without the adapters that are attached to it here; what the method prepares is computed at it. ``initial``:
    weights by parameter name that the steps begin at instead.
    """
    processes = processes or Processes.start()
    trained, adapters = _chosen(model, config, processes)
    optimizer = adam(trained, config)
    context = Context(
        model,
        trained,
        processes,
        seed=config.seed,
        micro_batch=config.train_batch_size,
        mixed_precision=config.mixed_precision,
        frozen=method.needs.frozen,
        dropout=dropout,
        channels_last=config.channels_last,
        sample_latents=config.sample_latents,
        optimizer=optimizer,
        adapters=adapters,
    )
    stopping = Stopping.of(config)
    began = time.perf_counter()
    state = method.prepare(context, pairs) if checkpoint is None else _kept(checkpoint, processes)
    if isinstance(model, InLatents):
        model.latents.rest()  # what was prepared may have been drawn
    put(model.denoiser, initial or {})
    average = Average(trained, config.ema_decay) if config.use_ema else None
    session = Session(
        model,
        method,
        pairs,
        config,
        trained,
        context,
        optimizer,
        average,
        stopping,
        state,
        preparation_seconds=time.perf_counter() - began,
        adapters=adapters,
    )
    if checkpoint is not None:
        _restore(session, checkpoint)
    return session


def _chosen(
    model: Model, config: TrainingConfig, processes: Processes
) -> tuple[dict[str, nn.Parameter], Adapters | None]:
    """The weights that are trained, on their device and as the settings want them held; with a rank, its adapters'."""
    if config.quantize is not None and processes.world > 1:
        raise BadInput(f"quantize {config.quantize} runs on one process, not on {processes.world}; leave it out")
    quantised = quantise(model.denoiser, config, processes.device)
    denoiser = model.denoiser.to(processes.device)
    if config.channels_last:
        denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    if config.rank is None:
        return select(denoiser, config.decided().parameters), None
    adapters = attach(denoiser, config, quantised)
    return adapters.trained, adapters


def _kept(checkpoint: Checkpoint, processes: Processes) -> State:
    """What the method had prepared when ``checkpoint`` was written."""
    return {name: tensor.to(processes.device) for name, tensor in checkpoint.tensors.get("method", {}).items()}


@torch.no_grad()
def put(denoiser: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give parameters of ``denoiser`` the values ``weights``, by name. Raises BadInput for one that is not there."""
    known = dict(denoiser.named_parameters())
    if missing := [name for name in weights if name not in known]:
        raise BadInput(
            f"weight {missing[0]} is edited, but the denoiser has none of that name; edited weights are whole ones "
            "(not under a LoRA)"
        )
    for name, value in weights.items():
        known[name].copy_(value)


def train(session: Session) -> Iterator[Step]:
    """Take steps until the configured last one; nothing here waits for the device, but for a loss scale (fp16)."""
    rate = learning_rate(session.config)
    while session.step < session.config.max_train_steps:
        session.optimizer.param_groups[0]["lr"] = rate(session.step)
        yield take_step(session)


def take_step(session: Session) -> Step:
    """One direction from the method, one step of the optimiser, one of the average."""
    context = session.context
    context.begin(session.step, of=session.config.max_train_steps)
    direction = session.method.direction(context, session.pairs.at(session.step), session.state)
    session.state = direction.state
    norm, skipped = _apply(session, direction)
    # What is clipped after it was weighed no longer meets the inequality of the rules for Adam's step.
    clipped = (norm > (session.config.max_grad_norm or torch.inf)).double()
    if session.average is not None:
        session.average.step()
    session.step += 1
    log = {**direction.log, "grad_norm": norm, "clipped": clipped, "seconds": time.perf_counter() - session.started}
    return Step(session.step, {**log, SKIPPED: 1.0} if skipped else log)


def _apply(session: Session, direction: Direction) -> tuple[Tensor, bool]:
    """Put the direction where a loss gradient would be, clip it and step.

    Returns its norm before clipping, and whether the scaler skipped the step because half precision overflowed.
    """
    scaler, parameters = session.context.scaler, list(session.trained.values())
    gradients = list(direction.gradients)
    if direction.mask is not None:
        gradients = [g * mask for g, mask in zip(gradients, direction.mask, strict=True)]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.to(parameter.dtype)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if session.config.max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, session.config.max_grad_norm, norm)
    scale = scaler.get_scale() if scaler.is_enabled() else None
    if scale is not None:
        # The gradients are unscaled already; handing them back scaled lets the scaler skip steps that overflowed.
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], scale)
    with _held(session, direction.mask):
        scaler.step(session.optimizer)
    scaler.update()
    session.optimizer.zero_grad(set_to_none=True)
    return norm, scale is not None and scaler.get_scale() < scale


@contextmanager
def _held(session: Session, mask: Sequence[Tensor] | None) -> Iterator[None]:
    """Within the block what ``mask`` leaves out stays as it is: weight decay moves weights without a gradient too."""
    if mask is None or not session.config.adam_weight_decay:
        yield
        return
    before = [p.detach().clone() for p in session.trained.values()]
    yield
    with torch.no_grad():
        for parameter, old, free in zip(session.trained.values(), before, mask, strict=True):
            parameter.copy_(torch.where(free.bool(), parameter, old))


def snapshot(session: Session) -> Checkpoint:
    """The state of a run, to be written."""
    whole = session.adapters is None
    tensors = {
        "model": dict(session.model.denoiser.state_dict() if whole else session.trained),
        "optimizer": optimizer_tensors(session.optimizer, session.trained),
        "method": dict(session.state),
    }
    if session.average is not None:
        tensors["ema"] = session.average.tensors()
    counters = {"stopping": session.stopping.state(), "scaler": session.context.scaler.state_dict()}
    return Checkpoint(session.step, {k: v for k, v in tensors.items() if v}, counters)


def _restore(session: Session, checkpoint: Checkpoint) -> None:
    weights = checkpoint.tensors["model"]
    if session.adapters is not None and weights.keys() != session.trained.keys():
        raise BadInput("the checkpoint holds other weights than the LoRA of this run; give one of the same run")
    # What a LoRA's checkpoint lacks is the base, which the run began with.
    try:
        session.model.denoiser.load_state_dict(weights, strict=session.adapters is None)
    except RuntimeError:  # torch names every weight that differs, on as many lines
        raise BadInput("the checkpoint holds other weights than this run's model; give one of the same run") from None
    load_optimizer(session.optimizer, session.trained, checkpoint.tensors["optimizer"])
    if session.average is not None:
        session.average.load(checkpoint.tensors["ema"], checkpoint.step)
    session.stopping.load(checkpoint.counters["stopping"])
    session.context.scaler.load_state_dict(checkpoint.counters["scaler"])
    session.step = checkpoint.step
