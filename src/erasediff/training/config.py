"""How a run is trained. Field names are those of diffusers' training scripts, and the command line's flags."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

from erasediff.errors import BadInput, check_one_of
from erasediff.families.precision import AUTOCAST, FULL
from erasediff.training.parameters import AUTO, SETS

QUANTISATIONS = ("int8", "nf4")
SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of the loop.

    Args:
        max_train_steps: optimiser steps at the most.
        learning_rate: Adam's learning rate, at its highest. erase takes 1e-4 for DiT and 1e-5 for models asked in
            words, ten times as much for a LoRA on these, unless told otherwise.
        train_batch_size: samples in one forward pass, per process, of each of the forget and the retain batch.
        forget_batch_size: of the forget batch, where it is another; by default as many, and erase takes a quarter for
            classes of UNet2DModel with EraseDiff's objectives, whose forget gradient has little noise.
        gradient_accumulation_steps: forward passes in one step; the gradients that are weighed are the whole batch's.
        max_grad_norm: the combined gradient is scaled down to this norm; 0 turns it off.
        lr_scheduler: constant, constant_with_warmup, linear or cosine.
        lr_warmup_steps: steps over which the learning rate rises.
        adam_beta1: decay of Adam's first moment; erase takes 0.9, for classes of UNet2DModel 0.5 unless told otherwise.
        adam_beta2: decay of Adam's second moment; erase takes 0.999, and there 0.9.
        adam_weight_decay: decoupled weight decay.
        adam_epsilon: Adam's epsilon.
        use_ema: keep an exponential moving average of the weights; it is what is saved and audited.
        ema_decay: its decay at the most; it is capped by the number of steps done.
        mixed_precision: no, bf16 or fp16; master weights and inner products stay fp32.
        seed: seed of everything random.
        parameters: which weights are trained: a named set, or globs of module paths with commas between them; auto is
            full, and the attention layers with a rank.
        rank: train a LoRA of this rank on the layers that parameters means, and leave the weights themselves alone:
            Linear layers of a named set, Conv2d layers too where a glob names them.
        lora_alpha: the LoRA's scale is this divided by the rank; by default it is the rank.
        quantize: hold the Linear layers under a LoRA in fewer bits while it is trained, int8 or nf4 (bitsandbytes); the
            LoRA is then merged into the weights as they were. Only with a rank.
        use_8bit_adam: hold Adam's moments in 8 bits (bitsandbytes), for weights of 4096 elements and more.
        checkpointing_steps: a checkpoint every so many steps; 0 for none but the one an interrupt writes.
        checkpoints_total_limit: the newest checkpoints that are kept.
        slack_tolerance: stop when the moving average of the slack is at most this share of the first step's slack.
        retain_budget: stop when the moving average of the retain loss exceeds (1 + this) times what it began at.
        gradient_checkpointing: recompute activations in the backward pass, to save memory.
        sample_latents: train latent models on draws from the autoencoder's posterior, not on its mean.
        channels_last: keep convolution weights and inputs in channels-last order.
        report_to: an experiment tracker that accelerate knows (tensorboard, wandb, ...), or none.
    """

    max_train_steps: int = 300
    learning_rate: float = 2e-4
    train_batch_size: int = 64
    forget_batch_size: int | None = None
    gradient_accumulation_steps: int = 1
    max_grad_norm: float = 1.0
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 0.0
    adam_epsilon: float = 1e-8
    use_ema: bool = True
    ema_decay: float = 0.999
    mixed_precision: str = FULL
    seed: int = 0
    parameters: str = field(default=AUTO, metadata={"names": tuple(SETS)})
    rank: int | None = None
    lora_alpha: float | None = None
    quantize: str | None = field(default=None, metadata={"names": QUANTISATIONS})
    use_8bit_adam: bool = False
    checkpointing_steps: int = 500
    checkpoints_total_limit: int = 2
    slack_tolerance: float | None = None
    retain_budget: float | None = None
    gradient_checkpointing: bool = False
    sample_latents: bool = False
    channels_last: bool = False
    report_to: str = "none"

    def __post_init__(self) -> None:
        for name in ("max_train_steps", "train_batch_size", "gradient_accumulation_steps", "checkpoints_total_limit"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_grad_norm", "lr_warmup_steps", "adam_weight_decay", "checkpointing_steps", "seed"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} must not be negative, got {getattr(self, name)}")
        if self.forget_batch_size is not None and self.forget_batch_size < 1:
            raise BadInput(f"forget_batch_size must be at least 1, got {self.forget_batch_size}")
        if self.rank is not None and self.rank < 1:
            raise BadInput(f"rank must be at least 1, got {self.rank}; leave it out to train the weights themselves")
        if self.lora_alpha is not None and self.rank is None:
            raise BadInput("lora_alpha is the scale of a LoRA, and none is trained; give a rank as well")
        if self.quantize is not None:
            check_one_of("quantize", self.quantize, QUANTISATIONS)
            if self.rank is None:
                raise BadInput(
                    f"quantize {self.quantize} is for weights that stay as they are, and without a rank they are "
                    "trained; give a rank as well, or leave out quantize"
                )
        for name in ("learning_rate", "adam_epsilon", "slack_tolerance", "retain_budget", "lora_alpha"):
            if (given := getattr(self, name)) is not None and not given > 0:
                raise BadInput(f"{name} must be above 0, got {given}")
        for name in ("adam_beta1", "adam_beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        for name, allowed in (("mixed_precision", AUTOCAST), ("lr_scheduler", SCHEDULES)):
            check_one_of(name, getattr(self, name), allowed)

    @property
    def forget_share(self) -> float:
        """Samples of a forget batch over those of a retain batch."""
        return (self.forget_batch_size or self.train_batch_size) / self.train_batch_size

    def decided(self) -> Self:
        """The same with ``auto`` decided: what goes into the record."""
        if self.parameters != AUTO:
            return self
        return replace(self, parameters="full" if self.rank is None else "attention")


# Large steps and few: the retain objective of the default method has little variance at first (docs/defaults.md). How
# large, with how long a memory, and how many where several classes go, is the family's to say (api/weights.steps_of).
ERASE_DEFAULTS = TrainingConfig(max_train_steps=240, lr_scheduler="cosine")
TRAIN_DEFAULTS = TrainingConfig(
    max_train_steps=2000, learning_rate=2e-3, lr_scheduler="cosine", lr_warmup_steps=50, checkpointing_steps=1000
)
