"""Transformers of flow matching that draw images of any size: at which size a model is erased, and what that shifts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import torch

from erasediff.errors import BadInput
from erasediff.families.flow import euler
from erasediff.families.noising import FlowNoising, shift_for
from erasediff.families.worded import Worded

SIZE = "_sample_size"  # in the transformer's configuration: latent cells of the images, where others than CELLS
CELLS = 128
TOKEN = 2  # latent cells to a side of what the transformer takes as one token


def sized(transformer: Any) -> tuple[int, int]:
    """Height and width of the latents in cells: 128 x 128, or what the transformer was saved with."""
    size = transformer.config.get(SIZE) or CELLS
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def tokens(transformer: Any) -> int:
    """How many tokens an image is."""
    height, width = sized(transformer)
    return (height // TOKEN) * (width // TOKEN)


class AnySize(Worded):
    """No size of image is its own: 1024 x 1024 unless :meth:`with_size` says another, which the transformer then keeps.

    It keeps it under ``_sample_size``, in latent cells: a private key, which diffusers saves, reads and does not warn
    about. The schedule of noise is shifted for that size, in training and in drawing.
    """

    @classmethod
    def mu(cls, transformer: Any, scheduler: Any, num_inference_steps: int | None = None) -> float:  # noqa: ARG003
        """The shift for the size of the images; ``num_inference_steps``: ``None`` in training."""
        return shift_for(tokens(transformer), scheduler.config)

    @classmethod
    def noised_by(cls, pipeline: Any) -> FlowNoising:
        return FlowNoising.of(pipeline.scheduler, mu=cls.mu(pipeline.transformer, pipeline.scheduler))

    @property
    def cells(self) -> tuple[int, int]:
        return sized(self.denoiser)

    @property
    def side(self) -> int:
        """How many pixels a token is wide and high."""
        return TOKEN * self.latents.factor

    def with_size(self, height: int, width: int) -> Self:
        """The same model for images of another size.

        Raises BadInput unless both sides are made of whole tokens.
        """
        if height % self.side or width % self.side or not height or not width:
            raise BadInput(
                f"this model draws images whose sides are multiples of {self.side}; these are {height} x {width}"
            )
        self.denoiser.register_to_config(**{SIZE: [TOKEN * height // self.side, TOKEN * width // self.side]})
        return replace(self, noising=FlowNoising.of(self.scheduler, mu=self.mu(self.denoiser, self.scheduler)))

    def sampler(self, num_inference_steps: int) -> Any:
        sigmas = torch.arange(num_inference_steps, 0, -1).div(num_inference_steps).tolist()
        mu = self.mu(self.denoiser, self.scheduler, num_inference_steps)
        return euler(self.scheduler, num_inference_steps, mu=mu, sigmas=sigmas)
