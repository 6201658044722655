"""Redirection: what the best denoiser of the retained images alone would say where forget samples are noised.

Of all functions of x_t, the one of least denoising loss on images x_1 .. x_m is known in closed form:

    x_0_hat(x_t) = sum_j w_j x_j,   w = softmax_j(-||x_t - signal x_j||^2 / (2 sigma^2))

Only images near the forget sample get weight where it matters, so the sum runs over its k nearest neighbours
(ReTrack, arXiv:2509.13007). The target is a function of x_t, so a denoiser can meet it: its floor is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from erasediff.data.images import ImageData, as_floats
from erasediff.data.pairs import Batch, Pairs
from erasediff.errors import BadInput
from erasediff.families.base import Noisy
from erasediff.methods.base import Losses, State, StepContext
from erasediff.methods.objectives import condition_dropped
from erasediff.methods.timesteps import UNIFORM, Timesteps
from erasediff.randomness import generator

ROWS, COLUMNS = 256, 4096  # forget and retained images whose distances are held at once


def neighbours(pairs: Pairs, *, k: int, candidates: int | None) -> State:
    """The k nearest retained images of every forget image, by pixel distance: tensors to be saved in checkpoints.

    ``neighbours.forget`` [f]: data indices of the forget set, sorted; ``neighbours.images``: uint8 [m, C, H, W], every
    neighbour once; ``neighbours.kept`` [m]: their data indices; ``neighbours.index`` [f, k]: rows of ``images``,
    nearest first; ``neighbours.latents`` [m, c, h, w] where the run has latents. ``candidates`` caps the search at that
    many retained images, drawn at random.

    A retained duplicate of a forget image is its nearest neighbour, and then nothing is redirected: forget both.
    """
    if pairs.forget is None:
        raise BadInput("redirection needs a forget set, and none was given")
    forget = pairs.forget.indices.sort().values
    retain = pairs.retain.indices
    retain = retain[~torch.isin(retain, forget)]
    if not len(retain):
        raise BadInput("redirection needs retained images, and none is left")
    if candidates is not None and candidates < len(retain):
        order = torch.randperm(len(retain), generator=generator(pairs.retain.seed, 0, "neighbours/candidates"))
        retain = retain[order[:candidates]].sort().values
    nearest = retain[_nearest(pairs.data, forget, retain, min(k, len(retain)), pairs.device)]
    kept, index = nearest.unique(return_inverse=True)
    state = {
        "neighbours.forget": forget,
        "neighbours.images": pairs.data.images[kept],
        "neighbours.kept": kept,
        "neighbours.index": index,
    }
    if pairs.encoded is not None:
        state["neighbours.latents"] = pairs.encoded.at(kept)[:, 0].clone()
    return state


def _nearest(data: ImageData, forget: Tensor, retain: Tensor, k: int, device: torch.device | str) -> Tensor:
    """Positions [f, k] in ``retain`` of each forget image's nearest, in pieces that fit into memory."""
    found = []
    for rows in forget.split(ROWS):
        images = data.floats(rows).flatten(1).to(device)
        distances, positions = images.new_empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.long)
        for number, columns in enumerate(retain.split(COLUMNS)):
            more = torch.cdist(images, data.floats(columns).flatten(1).to(device))
            place = torch.arange(len(columns)) + number * COLUMNS
            positions = torch.cat([positions, place.expand(len(rows), -1)], 1)
            distances, best = torch.cat([distances, more], 1).topk(min(k, positions.shape[1]), largest=False)
            positions = positions.gather(1, best.cpu())
        found.append(positions)
    return torch.cat(found)


def posterior(noisy: Noisy, images: Tensor) -> tuple[Tensor, Tensor]:
    """(w [b, k], x_0_hat [b, C, H, W]): the weights of ``images`` [b, k, C, H, W] given x_t, and their mean."""
    squared = (noisy.x_t[:, None] - noisy.signal[:, None] * images).square().flatten(2)
    # Summed in fp64: at small sigma the distances are divided by next to nothing, and their rounding with them.
    distance = squared.sum(2, dtype=torch.float64)
    tiny = torch.finfo(noisy.sigma.dtype).tiny
    variance = noisy.sigma.flatten().double().square().clamp(min=tiny)
    weights = (-distance / (2 * variance[:, None])).softmax(1).to(images)
    return weights, torch.einsum("bk,bk...->b...", weights, images)


@dataclass(frozen=True)
class Redirect:
    """Agree with the best denoiser of the retained neighbours, at the forget sample's own ``x_t``.

    In the model's own prediction type, and weighed by sigma^2 where that type's target is not bounded: at small
    sigma x_t has all but left the neighbours, and the noise that would lead from them to it, (x_t - signal x_0_hat) /
    sigma, grows as 1/sigma. So weighed, the error is at most that of two images; where sigma is near 1, and what is
    drawn is decided, the weight is too. A target of x_0 itself is bounded and bears no weight.

    The sample keeps its own condition, so a class that is forgotten is led to images of other classes.

    Args:
        state: what :func:`neighbours` found.
        null_share: share of samples whose condition is dropped.
        timesteps: which time steps are asked at.
    """

    state: State
    null_share: float
    timesteps: Timesteps = UNIFORM

    def __call__(self, ctx: StepContext, batch: Batch) -> Losses:
        noisy = self.timesteps.noised(ctx, batch)
        target, scale = self.target(ctx, batch, noisy)
        prediction = ctx.predict(noisy, condition_dropped(ctx, batch, self.null_share))
        loss = ctx.divergence(scale * prediction, scale * target)
        return Losses(loss, torch.zeros_like(loss))

    def target(self, ctx: StepContext, batch: Batch, noisy: Noisy) -> tuple[Tensor, Tensor]:
        """What to predict [b, C, H, W], and the factor [b, 1, 1, 1] under which its error is bounded."""
        _, x_0 = posterior(noisy, self.encoded(ctx, batch))
        noise = (noisy.x_t - noisy.signal * x_0) / noisy.sigma
        noising = ctx.model.noising
        # noise_weight is sigma^2 for models of x_0, whose own error is bounded as it is, and 1 for the others.
        scale = noisy.sigma / noising.noise_weight(noisy).sqrt()
        return noising.target(replace(noisy, x_0=x_0, noise=noise)), scale

    def encoded(self, ctx: StepContext, batch: Batch) -> Tensor:
        """What the denoiser takes [b, k, c, h, w] of the neighbours of each sample."""
        known = self.state.get("neighbours.latents")
        if known is not None:
            return known[self.rows(batch)].to(batch.images)
        around = self.around(batch)
        return ctx.model.encode(around.flatten(0, 1)).unflatten(0, around.shape[:2])

    def around(self, batch: Batch) -> Tensor:
        """The neighbours [b, k, C, H, W] of each sample, in [-1, 1], where the batch is."""
        return as_floats(self.state["neighbours.images"][self.rows(batch)].to(batch.images.device))

    def rows(self, batch: Batch) -> Tensor:
        """Which of the neighbours [b, k] are each sample's."""
        # Looked up where the state lies: only the rows of this batch travel to the device.
        forget, index = self.state["neighbours.forget"], batch.index.to(self.state["neighbours.forget"].device)
        place = torch.searchsorted(forget, index).clamp(max=len(forget) - 1)
        if not torch.equal(forget[place], index):
            raise BadInput("a sample of the forget batch was not in the forget set when its neighbours were searched")
        return self.state["neighbours.index"][place]
