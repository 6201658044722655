"""The judge of an audit: one that was given, one kept from before, or one trained on the training part of the data."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from erasediff.auditing.cache import key_of
from erasediff.auditing.classifier import Judge, train_classifier
from erasediff.data.sources import ImageData
from erasediff.errors import BadInput


def judge_for(
    given: str | Path | Judge | None, data: ImageData, seed: int, *, quiet: bool, kept: Path | None = None
) -> Judge | None:
    """The judge given, or one trained on the training part of ``data``; ``None`` for data without labels.

    ``kept``: a folder of judges trained before, by what they were trained on; the new one is added to it.
    """
    if isinstance(given, Judge):
        return given
    if given is not None:
        return Judge.load(given)
    if data.labels is None:
        return None
    labels = _grouped(data, data.labels)
    parts = [data.fingerprint(), data.held_out.tolist(), seed, *([labels.tolist()] if data.meant else [])]
    place = None if kept is None else kept / f"judge-{key_of(*parts)}"
    if place is not None and place.is_dir():
        try:
            return Judge.load(place)
        except BadInput:
            pass  # damaged: train it again
    judge = _trained(data, labels, seed, quiet=quiet)
    if place is not None:
        judge.save(place)
    return judge


def _grouped(data: ImageData, labels: Tensor) -> Tensor:
    """Labels [N]: all prompts of one target are its first, since no eye tells in which words it was asked."""
    found = labels.clone()
    for classes in data.meant.values():
        found[torch.isin(labels, torch.tensor(classes))] = classes[0]
    return found


def _trained(data: ImageData, labels: Tensor, seed: int, *, quiet: bool) -> Judge:
    kept, held = ~data.held_out, data.held_out
    bar = tqdm(desc=f"judge trained on {data.spec}", unit="step", disable=quiet)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    judge = train_classifier(
        data.floats(kept),
        labels[kept],
        num_classes=len(data.class_names),
        held_out=(data.floats(held), labels[held]),
        seed=seed,
        class_names=data.class_names,
        trained_on=f"{data.spec} (training part)",
        progress=progress,
    )
    bar.close()
    return judge
