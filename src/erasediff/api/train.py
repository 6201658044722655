"""``train``: a base model from data; with ``exclude`` the retrained oracle, which never saw the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from erasediff.api.launch import Job, launch
from erasediff.api.run import Run, new_record, with_fields
from erasediff.data import sources, targets
from erasediff.data.sources import ImageData
from erasediff.errors import BadInput, listing
from erasediff.families.architecture import Architecture
from erasediff.methods.fine_tune import FineTune
from erasediff.randomness import derived_seed
from erasediff.training.config import TRAIN_DEFAULTS, TrainingConfig


def train(
    data: ImageData | str,
    *,
    output_dir: str | Path | None = None,
    exclude: Sequence[targets.Target | str] = (),
    architecture: Architecture | None = None,
    null_share: float = 0.1,
    training: TrainingConfig | None = None,
    overwrite: bool = False,
    resume_from_checkpoint: str | None = None,
    quiet: bool = False,
    **fields: Any,
) -> Run:
    """Train a diffusion model on the training part of ``data`` (denoising loss, arXiv:2006.11239).

    Args:
        data: images, or what names them (``digits``, a .npz, ``mnist:DIR``, a folder, a datasets id).
        exclude: targets whose samples are left out: the model is then the retrained oracle of their erasure.
        architecture: what is built; by default a small UNet2DModel fit for the image size.
        null_share: share of samples whose condition is dropped, for classifier-free guidance.
        training, fields: the loop's settings, as a whole or one by one (``max_train_steps=...``).

    Raises:
        BadInput: data that cannot be read or used, a target that is not in it, an occupied output_dir.
        StoppedShort: the loss became non-finite. Interrupted: SIGINT; the state is saved.
    """
    config = with_fields(training, TRAIN_DEFAULTS, fields)
    if config.rank is not None:
        raise BadInput("a LoRA changes a model that is there, and train makes one from nothing; leave out rank")
    architecture = architecture or Architecture()
    images = sources.load(data) if isinstance(data, str) else data
    left_out = [targets.parse(t) if isinstance(t, str) else t for t in exclude]
    rows = targets.split(left_out, images).retain if left_out else (~images.held_out).nonzero()[:, 0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, 0, "initial weights"))
        model = architecture.build(images.image_shape, images.class_names)
    method = FineTune(null_share=null_share if model.conditions.num_classes else 0.0)
    record = new_record(
        "train",
        config,
        target=[str(t) for t in left_out],
        method={"name": "train", "fields": asdict(method)},
        data={"spec": images.spec, "sha256": images.fingerprint(), "n": len(rows)},
        architecture=architecture.recorded(images.image_shape),
    )
    title = f"train without {listing(left_out)}" if left_out else "train"
    job = Job(
        model=model,
        method=method,
        data=images,
        retain=rows,
        forget=None,
        config=config,
        dropout=architecture.dropout > 0,
    )
    return launch(
        job,
        record,
        title=title,
        output_dir=output_dir,
        overwrite=overwrite,
        resume_from_checkpoint=resume_from_checkpoint,
        quiet=quiet,
    )
