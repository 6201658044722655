"""The judge of an audit: one given, one kept from before, one trained on the training part of the data, or CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from erasediff.auditing.cache import key_of
from erasediff.auditing.classifier import Judge, train_classifier
from erasediff.auditing.clip import Clip
from erasediff.auditing.features import CLIP, AnyJudge
from erasediff.auditing.zero_shot import ZeroShot, held_out_rows, of_classes
from erasediff.data.images import ImageData
from erasediff.errors import BadInput
from erasediff.files import read_json, write_json

FEWEST = 2  # images to train a judge on, and to test it by


def clip_for(given: str | Path | Clip | None, **uses: object) -> Clip | None:
    """The CLIP model given, read; ``uses``: settings that need one where they are ``clip``. Raises BadInput."""
    if isinstance(given, Clip):
        return given
    if given is not None:
        return Clip.load(given)
    if needing := [name for name, value in uses.items() if value == CLIP]:
        raise BadInput(
            f"{needing[0]} {CLIP} needs a CLIP model, and none is fetched by default; give clip: a directory with "
            "safetensors, or a Hub id such as openai/clip-vit-large-patch14"
        )
    return None


def judge_for(
    given: str | Path | AnyJudge | None,
    data: ImageData,
    seed: int,
    *,
    quiet: bool,
    kept: Path | None = None,
    clip: Clip | None = None,
    texts: Sequence[str] | None = None,
) -> AnyJudge | None:
    """The judge given, or one trained on the training part of ``data``; ``None`` for data without labels.

    ``kept``: a folder of judges trained before, by what they were trained on; the new one is added to it. ``given``
    may be ``clip``: then ``clip`` is asked which of ``texts``, one for each class of the data, an image goes with.
    """
    if isinstance(given, Judge | ZeroShot):
        return given
    if clip is not None and (given == CLIP or (given is None and not len(data))):
        return _zero_shot(clip, data, texts, kept)
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
    if min(int(kept.sum()), int(held.sum())) < FEWEST:
        raise BadInput(
            f"{data.spec} has too few images to train a judge on: {len(data)}, of which {int(held.sum())} are held out "
            f"({FEWEST} and {FEWEST} are the least); give --data with more, draw more of them when "
            "erasing (--num_forget_images, --num_retain_images), or bring a judge (--classifier, --clip)"
        )
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


def _zero_shot(clip: Clip, data: ImageData, texts: Sequence[str] | None, kept: Path | None) -> ZeroShot:
    if not len(data):  # a concept that is asked for in words alone: nothing real says how far the judge can be trusted
        return ZeroShot(clip=clip, texts=tuple(texts or data.class_names), class_names=data.class_names)
    if data.labels is None:
        raise BadInput(
            f"classifier {CLIP} tells classes apart by their names, and {data.spec} has no labels; give data with "
            "class folders or captions"
        )
    judge = of_classes(clip, data.class_names)
    if texts is not None:
        judge = ZeroShot(clip=clip, texts=tuple(texts), class_names=data.class_names)
    rows = held_out_rows(data.held_out)
    key = key_of(judge.fingerprint, data.fingerprint(), rows.tolist())
    place = None if kept is None else kept / f"zero-shot-{key}.json"
    if place is not None and place.is_file():
        try:
            return replace(judge, **_accuracy(read_json(place)))
        except (BadInput, KeyError, TypeError, ValueError):
            pass  # damaged: measure it again
    judge = judge.trusted(data.floats(rows), data.labels[rows])
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {"held_out_accuracy": judge.held_out_accuracy, "held_out_n": judge.held_out_n})
    return judge


def _accuracy(record: Any) -> dict[str, Any]:
    return {"held_out_accuracy": float(record["held_out_accuracy"]), "held_out_n": int(record["held_out_n"])}
