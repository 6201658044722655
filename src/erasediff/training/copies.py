"""Weights that each sample of a batch has for itself, so that one backward gives every sample's own gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from erasediff.families.base import Condition, Model, Noisy
from erasediff.families.samples import at_once, each


class Copies:
    """Weights [b, ...] by parameter name: none outside of :meth:`one_by_one`."""

    def __init__(self, model: Model, trained: Mapping[str, nn.Parameter]) -> None:
        self.model, self.trained = model, dict(trained)
        self.held: dict[str, Tensor] = {}

    @contextmanager
    def one_by_one(self, most: int) -> Iterator[int]:
        """A block in which weights are copied; yields how many samples may go at once, at most ``most``."""
        denoiser = self.model.denoiser
        # A checkpointed layer is run again in the backward, when the weights of the samples are gone.
        checkpointed = getattr(denoiser, "is_gradient_checkpointing", False)
        if checkpointed:
            denoiser.disable_gradient_checkpointing()  # type: ignore[operator]
        try:
            most = 1 if checkpointed else most
            yield at_once(self.trained.values(), most)
        finally:
            self.held = {}
            if checkpointed:
                denoiser.enable_gradient_checkpointing()  # type: ignore[operator]

    def make(self, count: int) -> list[Tensor]:
        """Copies for so many samples, in place of those before."""
        self.held = {n: p.detach().expand(count, *p.shape).requires_grad_() for n, p in self.trained.items()}
        return list(self.held.values())

    def ask(self, noisy: Noisy, condition: Condition) -> Tensor:
        """The prediction [b, C, H, W] of each sample under its own copy of the weights."""
        ask, denoiser = self.model.ask, self.model.denoiser

        def one(weights: dict[str, Tensor], x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
            def asked(*given: object, **options: object) -> object:
                return functional_call(denoiser, weights, given, options)

            return ask(asked, x_t[None], t[None], None if c is None else c[None])[0]  # type: ignore[arg-type]

        # Never under autocast: squares of half-precision gradients underflow. And fused attention cannot be mapped
        # over samples; the plain formula can.
        with sdpa_kernel(SDPBackend.MATH):
            mapped = each(self.model, one, (0, 0, 0, None if condition is None else 0))
            return mapped(self.held, noisy.x_t, noisy.t, condition).float()
