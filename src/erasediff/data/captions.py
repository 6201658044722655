"""Captions of images: a column of the data, or class names in templates. Equal captions are one class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from erasediff.data.images import ImageData
from erasediff.data.metadata import METADATA
from erasediff.data.metadata import rows as metadata_rows
from erasediff.errors import BadInput, listing, nearest
from erasediff.randomness import generator

PLACE = "{}"  # in a template, where the class or caption goes


def from_column(data: ImageData, column: str) -> ImageData:
    """``data`` with a class for each distinct caption in its column ``column``; what is held out stays held out.

    A column is a text array of a .npz, a key of metadata.jsonl, or a column of a datasets id.
    Raises BadInput for a column that is not there (naming those that are), and for a row without a caption.
    """
    columns = _columns(data)
    if column not in columns:
        raise BadInput(
            f"{data.spec} has no caption column {column!r}{nearest(column, columns)}; its columns of text: "
            f"{listing(columns)}; name one of them, or make captions of class names with --caption_template 'a {PLACE}'"
        )
    return _relabelled(data, [text if isinstance(text, str) else "" for text in columns[column]])


def in_templates(data: ImageData, templates: Sequence[str]) -> ImageData:
    """``data``, each image's class name put into one of ``templates``, drawn for it once and for all.

    Raises BadInput for a template without its one ``{}``, and for data without labels.
    """
    for template in templates:
        if template.count(PLACE) != 1:
            raise BadInput(f"caption_template {template!r} needs {PLACE} once, where the class or caption goes")
    if data.labels is None:
        raise BadInput(f"{data.spec} has neither labels nor captions; a template needs class names to say")
    drawn = torch.randint(len(templates), (len(data),), generator=generator(0, 0, "caption templates")).tolist()
    pairs = zip(data.labels.tolist(), drawn, strict=True)
    return _relabelled(data, [templates[t].replace(PLACE, data.class_names[c]) for c, t in pairs])


def metadata(root: Path) -> list[dict[str, Any]]:
    """The rows of ``root/metadata.jsonl``. Raises BadInput for one that cannot be used, or names no image."""
    rows = metadata_rows(root)
    missing = [row["file_name"] for row in rows if not (root / row["file_name"]).is_file()]
    if missing:
        raise BadInput(
            f"{root / METADATA} names {missing[0]}, which does not exist ({len(missing)} of {len(rows)} images are "
            "missing); names are relative to the folder of this file"
        )
    return rows


def _relabelled(data: ImageData, given: Sequence[str]) -> ImageData:
    captions = [" ".join(text.split()) for text in given]
    if "" in captions:  # the empty prompt is the null condition and no class
        raise BadInput(
            f"{data.spec}: the caption of {data.names[captions.index('')]} is empty ({captions.count('')} of "
            f"{len(captions)} are); give every image one: that the null condition is trained too, null_share sees to"
        )
    distinct = sorted(set(captions))
    row = {caption: c for c, caption in enumerate(distinct)}
    return replace(data, labels=torch.tensor([row[c] for c in captions]), class_names=tuple(distinct))


def _columns(data: ImageData) -> dict[str, list[Any]]:
    """The columns of text, each with a value for every row of ``data``."""
    path = Path(data.spec)
    if path.suffix == ".npz" and path.is_file():
        return _arrays(path, len(data))
    if path.is_dir():
        return _keys(path, data.names)
    return _hub(data.spec)


def _arrays(path: Path, count: int) -> dict[str, list[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        # An array of another length or kind (images, class names) is no column of these rows.
        shapes = {name: archive[name] for name in archive.files if name not in ("images", "labels", "class_names")}
    return {n: a.tolist() for n, a in shapes.items() if a.shape == (count,) and a.dtype.kind == "U"}


def _keys(root: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    if not (root / METADATA).is_file():
        return {}
    waiting = defaultdict(list)
    for row in metadata(root):
        waiting[str(Path(row["file_name"]))].append(row)
    rows = [waiting[name].pop(0) for name in names]  # an image may stand in several rows, or have been left out
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, str))
    return {key: [row.get(key) for row in rows] for key in keys if key != "file_name"}


def _hub(spec: str) -> dict[str, list[Any]]:
    try:
        import datasets
    except ImportError:  # then no images came from there either
        return {}
    if ":" in spec or "/" not in spec:
        return {}
    table = datasets.load_dataset(spec, split="train")
    text = [name for name, feature in table.features.items() if getattr(feature, "dtype", "") == "string"]
    return {name: list(table[name]) for name in text}
