"""``train``: a base model from data; with ``exclude`` the retrained oracle, which never saw the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from erasediff.api.beginnings import Beginning, begin
from erasediff.api.inputs import parsed_targets
from erasediff.api.launch import Job, launch
from erasediff.api.run import Run, new_record, with_fields
from erasediff.data import sources, targets
from erasediff.data.images import ImageData
from erasediff.errors import BadInput, listing
from erasediff.families.architecture import Architecture
from erasediff.methods.fine_tune import FineTune
from erasediff.training.config import TRAIN_DEFAULTS, TrainingConfig


def train(
    data: ImageData | str,
    *,
    output_dir: str | Path | None = None,
    exclude: targets.Target | str | Sequence[targets.Target | str] = (),
    pretrained_model_name_or_path: Any = None,
    model_config: str | Path | None = None,
    caption_column: str | None = None,
    caption_template: str | Sequence[str] = (),
    architecture: Architecture | None = None,
    null_share: float = 0.1,
    training: TrainingConfig | None = None,
    overwrite: bool = False,
    resume_from_checkpoint: str | None = None,
    quiet: bool = False,
    **fields: Any,
) -> Run:
    """Train a diffusion model on the training part of ``data`` (denoising loss, arXiv:2006.11239).

    With captions it is a text-to-image model: its denoiser is trained on pairs of image and caption, the caption of
    ``null_share`` of them dropped; text encoder and VAE stay as they are.

    Args:
        data: images, or what names them (``digits``, a .npz, ``mnist:DIR``, a folder, a datasets id).
        exclude: targets whose samples are left out: the model is then the retrained oracle of their erasure. They are
            looked for among the captions of ``caption_column``, else among the class names.
        pretrained_model_name_or_path: a model whose denoiser is trained further; by default a new one is.
        model_config: how it is built where it is a single ``.safetensors`` file; see :func:`erasediff.erase`.
        caption_column: where the captions stand: a key of metadata.jsonl, a text array of a .npz, a column.
        caption_template: how a class name (or what the column says) becomes a caption, ``a photo of a {}``; of
            several each image gets one.
        architecture: what is built; by default a small UNet2DModel fit for the image size, or with captions a small
            text-to-image pipeline.
        null_share: share of samples whose condition is dropped, for classifier-free guidance.
        training, fields: the loop's settings, as a whole or one by one (``max_train_steps=...``).

    Raises:
        BadInput: data that cannot be read or used, a target that is not in it, an occupied output_dir.
        StoppedShort: the loss became non-finite. Interrupted: SIGINT; the state is saved.
    """
    config = with_fields(training, TRAIN_DEFAULTS, fields)
    if config.rank is not None:
        raise BadInput("train makes whole weights, and a LoRA is what erase can leave; leave out rank")
    left_out = parsed_targets(exclude) if exclude else []
    asked = Beginning(
        data=sources.load(data) if isinstance(data, str) else data,
        source=pretrained_model_name_or_path,
        column=caption_column,
        templates=(caption_template,) if isinstance(caption_template, str) else tuple(caption_template),
        architecture=architecture,
        config=model_config,
    )
    model, named, images, entries = begin(asked, config.seed)
    rows = targets.split(left_out, named).retain if left_out else (~images.held_out).nonzero()[:, 0]
    conditions = model.conditions
    method = FineTune(null_share=null_share if conditions.num_classes and conditions.null_label is not None else 0.0)
    record = new_record(
        "train",
        config,
        target=[str(t) for t in left_out],
        method={"name": "train", "fields": asdict(method)},
        data={"spec": images.spec, "sha256": images.fingerprint(), "n": len(rows)},
        **entries,
    )
    title = f"train without {listing(left_out)}" if left_out else "train"
    job = Job(
        model=model,
        method=method,
        data=images,
        retain=rows,
        forget=None,
        config=config,
        dropout=architecture is not None and architecture.dropout > 0,
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
