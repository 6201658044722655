"""Pixel-space diffusion with diffusers' UNet2DModel: class-conditional or unconditional DDPM."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from torch import Tensor, nn

from erasediff.errors import BadInput, listing
from erasediff.families.architecture import norm_groups
from erasediff.families.base import ClassConditions, Condition
from erasediff.families.noising import Noising
from erasediff.families.pipelines.class_conditional_ddpm import ClassConditionalDDPMPipeline
from erasediff.families.reading import read_part, read_scheduler
from erasediff.files import staged_directory


@dataclass
class UNet2D:
    """A UNet2DModel with its training scheduler; see :class:`erasediff.families.base.Model`.

    The label of the null condition and the class names live in the UNet's own ``config.json`` under
    ``_null_label`` and ``_class_names`` (private keys, which diffusers keeps and does not warn about).
    """

    denoiser: UNet2DModel
    scheduler: Any
    conditions: ClassConditions
    class_names: tuple[str, ...]
    noising: Noising
    family: str = "unet2d"

    @classmethod
    def wrap(cls, unet: UNet2DModel, scheduler: Any) -> UNet2D:
        """Adapt a UNet and a scheduler with ``alphas_cumprod``."""
        noising = Noising.of(scheduler)
        embedded = unet.config.num_class_embeds or 0
        null = unet.config.get("_null_label")
        num_classes = embedded - (1 if null is not None else 0)
        names = tuple(str(n) for n in unet.config.get("_class_names") or range(num_classes))
        return cls(unet, scheduler, ClassConditions(num_classes, null), names, noising)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        size = self.denoiser.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.denoiser.config.in_channels, height, width

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, x_0: Tensor) -> Tensor:
        return x_0.clamp(-1, 1)

    def ask(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return denoiser(x_t, t, condition, return_dict=False)[0]

    def class_tables(self, denoiser: nn.Module) -> list[nn.Embedding]:
        table = getattr(denoiser, "class_embedding", None)
        return [table] if self.conditions.num_classes and isinstance(table, nn.Embedding) else []

    def sampler(self, num_inference_steps: int) -> DPMSolverMultistepScheduler:
        # With the maximum at 1, "dynamic thresholding" clips x_0 to [-1, 1] exactly as DDPM's clip_sample does.
        clip = bool(self.scheduler.config.get("clip_sample"))
        sampler = DPMSolverMultistepScheduler.from_config(
            self.scheduler.config, thresholding=clip, sample_max_value=1.0
        )
        sampler.set_timesteps(num_inference_steps)
        return sampler

    def pipeline(self) -> Any:
        kind = ClassConditionalDDPMPipeline if self.conditions.num_classes else DDPMPipeline
        return kind(unet=self.denoiser, scheduler=self.scheduler)

    def resting(self) -> Any:
        """The same: there is no other part."""
        return self.pipeline()

    def save(self, directory: Path) -> None:
        """Write unet/, scheduler/, model_index.json and pipeline.py; the directory appears whole or not at all."""
        with staged_directory(directory) as staging:
            self.denoiser.to(memory_format=torch.contiguous_format)  # safetensors stores contiguous tensors only
            DDPMPipeline(unet=self.denoiser, scheduler=self.scheduler).save_pretrained(staging)
            if self.conditions.num_classes:
                source = resources.files("erasediff.families.pipelines") / "class_conditional_ddpm.py"
                (staging / "pipeline.py").write_text(source.read_text())


def load(directory: Path) -> UNet2D:
    """Read a DDPM or DDIM pipeline directory. Weights must be safetensors; code in the directory is never run."""
    unet = read_part(directory, "unet", UNet2DModel)
    return UNet2D.wrap(unet, read_scheduler(directory, "DDPMScheduler"))


def adopt(pipeline: Any) -> UNet2D:
    """Adapt a copy of a loaded pipeline's UNet and scheduler."""
    return UNet2D.wrap(copy.deepcopy(pipeline.unet).float().eval(), pipeline.scheduler)


def fresh(
    image_shape: Sequence[int],
    class_names: Sequence[str],
    *,
    block_out_channels: Sequence[int] = (32, 64),
    layers_per_block: int = 1,
    attention: bool = False,
    attention_levels: Sequence[int] = (),
    dropout: float = 0.0,
    prediction_type: str = "v_prediction",
    beta_schedule: str = "squaredcos_cap_v2",
    num_train_timesteps: int = 1000,
) -> UNet2D:
    """An untrained model for ``image_shape`` [C, H, W]; no ``class_names`` makes it unconditional.

    One class embedding more than there are classes: the last label is the null condition.
    ``attention`` puts self-attention into every level but the first; ``attention_levels`` names the levels instead,
    counted from the image downwards from 0: (1,) for 32 x 32 images is DDPM's attention at 16 x 16.
    """
    channels, height, width = image_shape
    levels = len(block_out_channels)
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise BadInput(
            f"images of {height} x {width} cannot be halved {levels - 1} times; "
            f"give fewer block_out_channels than {listing(block_out_channels)}"
        )
    odd = [level for level in attention_levels if not 0 <= level < levels]
    if odd:
        raise BadInput(
            f"attention_levels must lie between 0 and {levels - 1}, got {listing(odd)}: block_out_channels "
            f"{listing(block_out_channels)} make {levels} levels; give other levels or more channels"
        )
    attends = set(attention_levels) or (set(range(1, levels)) if attention else set())
    unet = UNet2DModel(
        sample_size=height if height == width else (height, width),
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if i in attends else "DownBlock2D" for i in range(levels)),
        up_block_types=tuple("AttnUpBlock2D" if i in attends else "UpBlock2D" for i in reversed(range(levels))),
        norm_num_groups=norm_groups(block_out_channels),
        attention_head_dim=8,
        dropout=dropout,
        num_class_embeds=len(class_names) + 1 if class_names else None,
    )
    if class_names:
        unet.register_to_config(_null_label=len(class_names), _class_names=list(class_names))
    scheduler = DDPMScheduler(
        num_train_timesteps=num_train_timesteps, beta_schedule=beta_schedule, prediction_type=prediction_type
    )
    return UNet2D.wrap(unet, scheduler)
