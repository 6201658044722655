"""Selective Amnesia: teach the forgotten class noise, replay the others, hold the weights that mattered.

Heng and Soh: Selective Amnesia: A Continual Learning Approach to Forgetting in Deep Generative Models. NeurIPS 2023,
arXiv:2305.10120. With l the denoising loss, c_f the forgotten class and theta* the weights at the start:

    L = E_{x ~ U[-1, 1]} l(x, c_f) + E_{c != c_f, x ~ p(x | theta*, c)} l(x, c)
        + lambda / 2 sum_i F_i (theta_i - theta*_i)^2
    F_i = E_{c, x, t} (d l(x, c, t) / d theta_i)^2 at theta*, over all classes

The factor 1/2 is that of the paper's objective, where the penalty is the logarithm of a Gaussian posterior; released
code that drops it means twice our lambda. Nor do published values of lambda carry over for another reason: there l is
a sum over pixels, and its gradient is summed over all time steps before it is squared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from erasediff.data.images import as_bytes, as_floats
from erasediff.data.pairs import Batch, Pair, Pairs
from erasediff.errors import BadInput, check_finite, check_one_of, check_shares, listing
from erasediff.files import write_atomic
from erasediff.methods.base import Direction, Losses, Needs, State, StepContext, record
from erasediff.methods.drawn import showing_drawn
from erasediff.methods.objectives import Denoise
from erasediff.randomness import generator
from erasediff.solver.fisher import ewc_gradient, ewc_penalty, is_fisher
from erasediff.solver.gram import combine

SOURCES = ("generated", "data")
HASH = "weights_sha256"


@dataclass(frozen=True)
class Surrogate:
    """The denoising loss of images drawn from U[-1, 1] under the batch's classes, never under the null condition:
    dropped, the noise would be taught to every class at once.
    """

    def __call__(self, ctx: StepContext, batch: Batch) -> Losses:
        noise = 2 * ctx.uniform_like(batch, batch.images, "surrogate") - 1
        return Denoise(0.0)(ctx, batch.showing(noise))._replace(denoise=None)


@dataclass(frozen=True, kw_only=True)
class SelectiveAmnesia:
    """Noise for the forgotten classes, replay of the others, and elastic weight consolidation.

    Args:
        ewc_weight: lambda, how firmly weights are held where the Fisher matrix says that they mattered.
        fisher_samples: samples of all classes that the Fisher matrix is a mean over.
        fisher_timesteps: time steps drawn for each of these samples.
        replay: ``generated`` (retained classes as the frozen model draws them, as in the paper) or ``data`` (the
            retain set); samples for the Fisher matrix come from the same source.
        replay_samples: how many images are drawn once, spread evenly over the retained classes.
        replay_steps: sampling steps for each drawn image.
        null_share: share of replayed samples whose condition is dropped.
        fisher_file: a safetensors file: read if it is there, else written; it serves any target on the same weights.
    """

    ewc_weight: float = 1e4
    fisher_samples: int = 256
    fisher_timesteps: int = 4
    replay: str = "generated"
    replay_samples: int = 512
    replay_steps: int = 20
    null_share: float = 0.1
    fisher_file: str = ""

    PAPER: ClassVar[str] = "arXiv:2305.10120"
    SUMMARY: ClassVar[str] = "noise for the forgotten class, replay of the others, elastic weight consolidation"
    GRADIENT_LISTS: ClassVar[int] = 4

    def __post_init__(self) -> None:
        check_one_of("replay", self.replay, SOURCES)
        for name in ("fisher_samples", "fisher_timesteps", "replay_samples", "replay_steps"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, got {getattr(self, name)}")
        check_finite(self, "ewc_weight")
        check_shares(self, "null_share")

    @property
    def needs(self) -> Needs:
        generated = self.replay == "generated"
        return Needs(retain_set=not generated, classes=True, frozen=generated)

    def prepare(self, ctx: StepContext, pairs: Pairs) -> State:
        """``fisher.i`` and ``anchor.i`` (theta*) in the order of the trained weights; ``replay.images`` (uint8
        [N, C, H, W]) and ``replay.labels`` [N] where replay is generated.
        """
        _check_classes(ctx, pairs)
        fisher = self._fisher(ctx, pairs)
        state = {f"fisher.{i}": f for i, f in enumerate(fisher)}
        state |= {f"anchor.{i}": w.clone() for i, w in enumerate(ctx.weights())}
        if self.replay == "generated":
            kept = ctx.model.conditions.classes()
            images, labels = self._drawn(ctx, kept, self.replay_samples, "replay")
            state |= {"replay.images": images, "replay.labels": labels}
        return state

    def direction(self, ctx: StepContext, pair: Pair, state: State) -> Direction:
        forget, retain = ctx.gradients(
            (Surrogate(), pair.forget), (Denoise(self.null_share), _replayed(ctx, pair.retain, state))
        )
        weights = ctx.weights()
        fisher = [state[f"fisher.{i}"] for i in range(len(weights))]
        anchor = [state[f"anchor.{i}"] for i in range(len(weights))]
        pull = ewc_gradient(fisher, weights, anchor)
        gradients = combine([1.0, 1.0, self.ewc_weight], [retain.gradients, forget.gradients, pull])
        penalty = self.ewc_weight * ewc_penalty(fisher, weights, anchor)
        log = {**record(retain=retain, forget=forget), "ewc_penalty": penalty}
        return Direction(gradients, log, state)

    def forward_equivalents(self) -> float:
        """Two students. Once: 3 for each Fisher sample and time step, ``replay_steps`` for each drawn image."""
        return 6

    def _fisher(self, ctx: StepContext, pairs: Pairs) -> list[Tensor]:
        """The diagonal Fisher matrix at the weights as they are: read, or computed and kept for the next run."""
        file, weights = Path(self.fisher_file), _named_weights(ctx)
        if self.fisher_file and file.exists():
            return read_fisher(file, weights)
        if self.fisher_file and not file.parent.is_dir():
            raise BadInput(f"fisher_file {file} cannot be written: {file.parent} is no directory; create it first")
        total: list[Tensor] = []
        batch = self._fisher_batch(ctx, pairs)
        for number in range(self.fisher_timesteps):
            found = ctx.squared_gradients(Denoise(self.null_share), replace(batch, role=f"fisher/{number}"))
            total = combine([1.0, 1.0], [total, found]) if total else list(found)
        fisher = [t / self.fisher_timesteps for t in total]
        if self.fisher_file and pairs.rank == 0:
            said = {"samples": str(batch.total), "timesteps": str(self.fisher_timesteps), "source": self.replay}
            write_fisher(file, weights, fisher, said)
        return fisher

    def _fisher_batch(self, ctx: StepContext, pairs: Pairs) -> Batch:
        """This process's share of samples of all classes, the forgotten ones included: F belongs to the model,
        whatever is forgotten of it. The total is rounded up to a multiple of the processes.
        """
        share = -(-self.fisher_samples // pairs.world)
        total, mine = share * pairs.world, slice(pairs.rank * share, (pairs.rank + 1) * share)
        if self.replay == "generated":
            images, labels = self._drawn(ctx, range(ctx.model.conditions.num_classes), total, "fisher")
            index = torch.arange(total)
        else:
            known = torch.cat([pairs.retain.indices, _forgotten(pairs)]).sort().values
            order = torch.randperm(len(known), generator=generator(pairs.retain.seed, 0, "fisher"))
            index = known[order[torch.arange(total) % len(known)]]
            images, labels = pairs.data.images[index], _labels(pairs)[index]
        rows = as_floats(images[mine].to(pairs.device)), labels[mine].to(pairs.device), index[mine]
        return Batch(*rows, role="fisher", start=mine.start, total=total)

    def _drawn(self, ctx: StepContext, classes: Sequence[int], count: int, purpose: str) -> tuple[Tensor, Tensor]:
        """Images uint8 [count, C, H, W] of the frozen model and their labels [count], as many of each class."""
        labels = torch.tensor(classes)[torch.arange(count) % len(classes)]
        images = ctx.generate(labels, count, purpose, num_inference_steps=self.replay_steps)
        return as_bytes(images), labels.to(images.device)


def _replayed(ctx: StepContext, retain: Batch, state: State) -> Batch:
    """As many images of the replay as the retain batch has, drawn anew at each step; or the retain batch itself."""
    if "replay.images" not in state:
        return retain
    batch = showing_drawn(ctx, retain, state["replay.images"], "replay")
    return replace(batch, labels=state["replay.labels"][batch.index], role="replay")


def _labels(pairs: Pairs) -> Tensor:
    if pairs.data.labels is None:
        raise BadInput(f"method selective_amnesia forgets by class label, and {pairs.data.spec} has no labels")
    return pairs.data.labels


def _forgotten(pairs: Pairs) -> Tensor:
    if pairs.forget is None:
        raise BadInput("this method needs a forget set, and none was given")
    return pairs.forget.indices


def _check_classes(ctx: StepContext, pairs: Pairs) -> None:
    """Raise BadInput unless whole classes are forgotten and others remain: noise is taught to a class as a whole."""
    conditions = ctx.model.conditions
    touched = set(_labels(pairs)[_forgotten(pairs)].tolist())
    partly = sorted(touched - set(conditions.excluded))
    if partly:
        names = listing(ctx.model.class_names[c] for c in partly)
        raise BadInput(
            f"method selective_amnesia forgets whole classes, got only some samples of: {names}; "
            "give class:NAME as the target, or use another method"
        )
    if not conditions.classes():
        raise BadInput("method selective_amnesia replays the classes that remain, and every class is to be forgotten")


def _named_weights(ctx: StepContext) -> dict[str, Tensor]:
    names = [name for name, p in ctx.model.denoiser.named_parameters() if p.requires_grad]
    return dict(zip(names, ctx.weights(), strict=True))


def weights_hash(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in order."""
    digest = hashlib.sha256()
    for name, weight in weights.items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_fisher(file: Path, weights: dict[str, Tensor], fisher: Sequence[Tensor], said: dict[str, str]) -> None:
    """Write F by parameter name, with the hash of the weights that it belongs to."""
    tensors = {name: f.cpu().contiguous() for name, f in zip(weights, fisher, strict=True)}
    write_atomic(file, save(tensors, metadata={HASH: weights_hash(weights), **said}))


def read_fisher(file: Path, weights: dict[str, Tensor]) -> list[Tensor]:
    """F in the order of ``weights``. Raises BadInput for what is no Fisher file, or that of other weights."""
    advice = "give another path, or delete the file to have it computed anew"
    try:
        with safe_open(file, framework="pt") as opened:
            given = (opened.metadata() or {}).get(HASH)
            # Copied: what is read is mapped to the file, and would change with it.
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadInput(f"Fisher file {file} cannot be read as safetensors: {error}; {advice}") from None
    wanted = weights_hash(weights)
    if given != wanted:
        raise BadInput(
            f"Fisher file of another model: {file} belongs to weights {(given or 'unnamed')[:12]}, "
            f"these are {wanted[:12]}; {advice}"
        )
    fisher = [tensors[name].to(w.device) for name, w in weights.items() if name in tensors]
    fits = [f.shape for f in fisher] == [w.shape for w in weights.values()]
    if not fits or not is_fisher(fisher):
        raise BadInput(f"Fisher file {file} is damaged: squares are missing, negative or not finite; {advice}")
    return fisher
