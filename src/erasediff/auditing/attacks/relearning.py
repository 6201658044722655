"""Relearning: how fast the target comes back when the model is fine-tuned on a few forgotten images.

A model that never saw the target (the retrained one) has to learn it; a model that merely hides it remembers. The
curve of return against the retrained model's is the evidence (SCIENCE.md section 3; Hu et al. 2024, arXiv:2406.13356).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from erasediff.auditing.generate import images
from erasediff.auditing.result import Measurement
from erasediff.data.pairs import Pairs
from erasediff.data.sources import ImageData
from erasediff.families.base import Model
from erasediff.methods.fine_tune import FineTune
from erasediff.randomness import generator
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import start, train
from erasediff.training.processes import Processes

POINTS = 5  # evaluations along a curve, the start included


def relearn(
    model: Model,
    data: ImageData,
    forget: Tensor,
    target_share: Callable[[Tensor], float],
    *,
    subject: str,
    images_used: int,
    steps: int,
    samples: int,
    classes: tuple[int, ...],
    seed: int,
    guidance_scale: float,
    num_inference_steps: int,
    learning_rate: float = 3e-4,
) -> Measurement:
    """Fine-tune a copy of ``model`` on ``images_used`` images of ``forget`` (data indices) and watch the target return.

    ``target_share`` maps images [n, C, H, W] to the share that the judge calls the target. The value is the mean
    of the curve over its steps (0: it never returns; 1: it was never gone); the model itself is left alone.
    """
    order = torch.randperm(len(forget), generator=generator(seed, 0, "relearn/images"))
    chosen = forget[order[:images_used]]
    config = TrainingConfig(
        max_train_steps=steps,
        learning_rate=learning_rate,
        train_batch_size=min(16, 4 * len(chosen)),
        use_ema=False,
        checkpointing_steps=0,
        seed=seed,
    )
    labels = torch.tensor(classes).repeat_interleave(-(-samples // len(classes)))[:samples]

    def share(current: Model) -> float:
        drawn = images(
            current,
            labels,
            samples,
            seed=seed,
            kind="relearn",
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
        )
        return target_share(drawn)

    marks, curve = zip(*_curve(model, data, chosen, config, share), strict=True)
    area = float(np.trapezoid(curve, marks) / marks[-1])
    return Measurement(
        name=f"relearn_k{images_used}",
        group="relearning",
        subject=subject,
        value=area,
        n=samples,
        higher_is_better=False,
        detail={
            "k": len(chosen),
            "steps": list(marks),
            "forget_rate": list(curve),
            "learning_rate": learning_rate,
            "train_batch_size": config.train_batch_size,
            "seed": seed,
        },
    )


def _curve(
    model: Model, data: ImageData, chosen: Tensor, config: TrainingConfig, share: Callable[[Model], float]
) -> Iterator[tuple[int, float]]:
    pupil = copy.deepcopy(model)
    pairs = Pairs(
        data,
        chosen,
        None,
        batch_size=config.train_batch_size,
        seed=config.seed,
        device=next(model.denoiser.parameters()).device,
    )
    marks = {round(config.max_train_steps * i / (POINTS - 1)) for i in range(POINTS)}
    yield 0, share(pupil)
    for step in train(start(pupil, FineTune(null_share=0.0), pairs, config, processes=Processes.start())):
        if step.number in marks:
            yield step.number, share(pupil)
