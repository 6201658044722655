"""What an untrained model is built from, as ``erasediff train`` takes it. No diffusers here: the flags read this."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from erasediff.errors import BadInput, check_one_of
from erasediff.families.entries import STABLE_DIFFUSION, UNET2D

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


def norm_groups(widths: Sequence[int]) -> int:
    """Groups of the group norms of layers that are ``widths`` wide: a divisor of all of them.

    Four channels a group at least: a group of one would normalise away the time and class that are added.
    """
    common = math.gcd(*widths)
    return max(n for n in range(1, max(1, common // 4) + 1) if common % n == 0)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An untrained UNet2DModel, or for captioned images an untrained text-to-image pipeline, and its noise schedule.

    Args:
        block_out_channels: channels of each resolution level; by default chosen from the image size.
        layers_per_block: residual blocks in each level.
        attention: self-attention in every level but the first.
        attention_levels: levels, counted from the image downwards from 0, that have self-attention; replaces attention.
            Of a model trained on captions: those that attend to the text (by default all but the first).
        dropout: dropout in the residual blocks while training.
        prediction_type: epsilon, v_prediction or sample.
        beta_schedule: linear, scaled_linear or squaredcos_cap_v2.
        num_train_timesteps: noise levels.
        unconditional: leave the labels out of the model.
    """

    block_out_channels: tuple[int, ...] = ()
    layers_per_block: int = 1
    attention: bool = False
    attention_levels: tuple[int, ...] = ()
    dropout: float = 0.0
    prediction_type: str = "v_prediction"
    beta_schedule: str = "squaredcos_cap_v2"
    num_train_timesteps: int = 1000
    unconditional: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("prediction_type", UNET2D.predictions), ("beta_schedule", BETA_SCHEDULES)):
            check_one_of(name, getattr(self, name), allowed)
        if any(c < 1 for c in self.block_out_channels) or self.layers_per_block < 1 or self.num_train_timesteps < 2:
            raise BadInput("block_out_channels and layers_per_block must be at least 1, num_train_timesteps at least 2")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"dropout must lie in [0, 1), got {self.dropout}")

    def channels(self, height: int, *, text: bool = False) -> tuple[int, ...]:
        """Channels by level: as given, or small ones that suit a CPU and halve the image to about 7 pixels."""
        if self.block_out_channels:
            return self.block_out_channels
        if text:
            return (32, 48) if height < 24 else (32, 48, 64)
        return (24, 48) if height < 16 else (32, 64, 64)

    def recorded(self, image_shape: Sequence[int], *, text: bool = False) -> dict[str, Any]:
        """What run.json says of it, as JSON gives it back: a run is resumed only where the two agree."""
        fields = {**asdict(self), "block_out_channels": list(self.channels(image_shape[1], text=text))}
        levels = fields.pop("attention_levels")
        # Said only where there are any, so that runs that were begun without this field can be resumed.
        return {**fields, "attention_levels": list(levels)} if levels else fields

    def build(self, image_shape: Sequence[int], class_names: Sequence[str]) -> Any:
        """The untrained model for images [C, H, W]; weights are drawn from torch's global generator."""
        from erasediff.families.unet2d import fresh

        return fresh(
            image_shape,
            () if self.unconditional else class_names,
            block_out_channels=self.channels(image_shape[1]),
            layers_per_block=self.layers_per_block,
            attention=self.attention,
            attention_levels=self.attention_levels,
            dropout=self.dropout,
            prediction_type=self.prediction_type,
            beta_schedule=self.beta_schedule,
            num_train_timesteps=self.num_train_timesteps,
        )

    def build_for_captions(self, image_shape: Sequence[int], captions: Sequence[str], *, seed: int) -> Any:
        """The untrained text-to-image model for images [C, H, W] and ``captions``, its classes.

        Raises BadInput for settings that such a model does not have.
        """
        check_one_of("prediction_type", self.prediction_type, STABLE_DIFFUSION.predictions)
        if self.unconditional:
            raise BadInput("a model trained on captions is conditional; leave out --unconditional, or the captions")
        from erasediff.families.fresh_text import fresh_text

        return fresh_text(
            image_shape,
            captions,
            seed=seed,
            block_out_channels=self.channels(image_shape[1], text=True),
            layers_per_block=self.layers_per_block,
            attention_levels=self.attention_levels,
            dropout=self.dropout,
            prediction_type=self.prediction_type,
            beta_schedule=self.beta_schedule,
            num_train_timesteps=self.num_train_timesteps,
        )
