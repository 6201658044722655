"""What one experiment is made of: sizes, data, the network of DDPM's paper, settings of the loop, where things lie."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from piece import Piece

from erasediff.data import sources, targets
from erasediff.data.images import ImageData, build
from erasediff.errors import BadInput
from erasediff.families.architecture import Architecture
from erasediff.files import read_json, writable, write_json
from erasediff.training.config import TrainingConfig

TINY_COUNTS = (32, 8)  # images of a class that --shrunken trains on and holds out


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is trained, drawn and measured. ``erase_steps`` caps what methods.yaml says; ``fields`` replaces
    fields of methods that have them."""

    block_out_channels: tuple[int, ...] = (128, 256, 256, 256)
    layers_per_block: int = 2
    train_steps: int = 30_000
    warmup: int = 1000
    batch: int = 128
    checkpointing_steps: int = 2000
    erase_steps: int | None = None
    fields: dict[str, int] = field(default_factory=dict)
    judge_steps: int = 8000
    forget: int = 500
    per_class: int = 500
    unconditional: int = 1000
    num_inference_steps: int = 20
    guidance_scale: float = 2.0
    resamples: int = 100


FULL: dict[str, int] = {"per_class": 5000, "unconditional": 5000, "num_inference_steps": 50}
SHRUNKEN = Sizes(
    block_out_channels=(8, 16, 16, 16),
    layers_per_block=1,
    train_steps=60,
    warmup=5,
    batch=16,
    checkpointing_steps=0,
    erase_steps=12,
    fields={"fisher_samples": 8, "fisher_timesteps": 1, "replay_samples": 18, "replay_steps": 2, "mask_batches": 1},
    judge_steps=40,
    forget=12,
    per_class=4,
    unconditional=12,
    num_inference_steps=2,
    resamples=5,
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One experiment below ``place``, and the piece of time that it may use now."""

    place: Path
    data: ImageData
    target: str
    sizes: Sizes
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    shrunken: bool
    piece: Piece

    @property
    def base(self) -> Path:
        return self.place / "base"

    @property
    def forgotten(self) -> tuple[int, ...]:
        """Classes to be forgotten. Raises BadInput for a target that is no class of the data."""
        found = targets.split([targets.parse(self.target)], self.data).classes
        if not found:
            raise BadInput(f"target {self.target} is no whole class; give class:NAME, one of the data's")
        return found

    def architecture(self) -> Architecture:
        """The network of Ho et al., arXiv:2006.11239, app. B: attention at half the image's resolution only."""
        return Architecture(
            block_out_channels=self.sizes.block_out_channels,
            layers_per_block=self.sizes.layers_per_block,
            attention_levels=(1,),
            dropout=0.1,
            prediction_type="epsilon",
            beta_schedule="linear",
        )

    def training(self) -> TrainingConfig:
        """As in the paper but for the number of steps, their warm-up, and half precision on a GPU. The learning rate
        does not depend on the number of steps, so that this may be changed between two pieces."""
        return TrainingConfig(
            max_train_steps=self.sizes.train_steps,
            learning_rate=2e-4,
            lr_scheduler="constant_with_warmup",
            lr_warmup_steps=self.sizes.warmup,
            train_batch_size=self.sizes.batch,
            ema_decay=0.9999,
            checkpointing_steps=self.sizes.checkpointing_steps,
            **on_this_device(),
        )

    def erasing(self, seed: int) -> dict[str, Any]:
        """Settings that every erasure shares; a checkpoint is written where a piece ends."""
        device = on_this_device()
        return {"train_batch_size": self.sizes.batch, "seed": seed, "checkpointing_steps": 0, **device}


def on_this_device() -> dict[str, Any]:
    fast = torch.cuda.is_available()
    return {"mixed_precision": "bf16" if fast else "no", "channels_last": fast}


def load_data(path: str, *, shrunken: bool) -> ImageData:
    """The data that ``path`` names; shrunken, a few images of each class at half their resolution."""
    data = sources.load(path)
    if data.labels is None:
        raise BadInput(f"data {path} has no labels; pack.py writes a .npz that has")
    if not shrunken:
        return data
    rows = [
        ((data.labels == c) & (data.held_out == held)).nonzero()[:count, 0]
        for held, count in zip((False, True), TINY_COUNTS, strict=True)
        for c in range(len(data.class_names))
    ]
    chosen = torch.cat(rows)
    halved = torch.nn.functional.avg_pool2d(data.images[chosen].float(), 2).round().byte()
    return build(
        f"{data.spec} (shrunken)",
        np.ascontiguousarray(halved.permute(0, 2, 3, 1).numpy()),
        data.labels[chosen].numpy(),
        class_names=data.class_names,
        held_out=data.held_out[chosen].numpy(),
    )


def claim(setting: Setting) -> None:
    """Write down what the directory is for. Raises BadInput where it is there for something else."""
    path = setting.place / "setting.json"
    network = asdict(setting.architecture())
    said = {
        "target": setting.target,
        "data": setting.data.fingerprint(),
        "network": list(network["block_out_channels"]),
    }
    if not path.exists():
        with writable(setting.place):
            setting.place.mkdir(parents=True, exist_ok=True)
        write_json(path, said)
    elif (found := read_json(path)) != said:
        odd = [k for k in said if found.get(k) != said[k]]
        raise BadInput(
            f"{setting.place} holds an experiment with another {', '.join(odd)} ({found.get(odd[0])}); "
            "give the same again, or another --output_dir"
        )
