"""Where an erase's samples come from: data alone, or data, folders and drawn images put together."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erasediff.api.drawing import check_reuse, planned_drawing
from erasediff.api.inputs import asked_in_words, check_fit, load_data, still_there, words
from erasediff.api.pairing import anchors_of
from erasediff.api.showing import Showing, Shown, Wishes, wants_showing
from erasediff.auditing.cache import state_fingerprint
from erasediff.data.images import ImageData
from erasediff.data.targets import Split, Target, split
from erasediff.families.base import Model


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The model as it is asked, the data (its images still to come where ``shown``), both sides, and the record."""

    model: Model
    data: ImageData
    split: Split
    record: Mapping[str, Any]
    plan: Mapping[str, Any]
    shown: Shown | None = None

    def fingerprint(self) -> str:
        """SHA-256 of what the samples are a function of."""
        return self.data.fingerprint() if self.shown is None else self.shown.assembled.fingerprint()


def gathered(
    model: Model,
    wanted: Sequence[Target],
    data: ImageData | str | None,
    source: Path | None,
    hashes: Mapping[str, str] | None,
    wishes: Wishes,
    gone: Sequence[Target],
) -> Gathered:
    """Read all that is there and check it against the model; nothing is drawn or written. Raises BadInput."""
    anchors = anchors_of(wanted, wishes.anchor)
    anchor = next(iter(anchors.values()), None)
    if not wants_showing(model, wanted, data, source, wishes):
        pool = load_data(data, source, model)
        asked = asked_in_words(model, pool, wishes.prompt_template, anchor)
        sides = _checked(asked, pool, wanted, gone)
        record = words(asked, wishes.prompt_template, anchor)
        return Gathered(model=asked, data=pool, split=sides, record=record, plan={})
    identity = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest() if hashes else None
    showing = Showing(model, wanted, wishes, identity or state_fingerprint(model.denoiser), gone)
    shown = showing.shown(data, source)
    check_reuse(shown)
    for note in shown.warnings:
        warnings.warn(note, stacklevel=4)
    pool = shown.planned(wishes.folder)
    asked = shown.asked(model, pool)
    return Gathered(
        model=asked,
        data=pool,
        split=_checked(asked, pool, wanted, gone),
        record={**words(asked, None, anchor), "shown": shown.record()},
        plan={"generate": planned_drawing(shown, wishes.folder), "notes": [*shown.warnings, *shown.notes]},
        shown=shown,
    )


def _checked(model: Model, data: ImageData, wanted: Sequence[Target], gone: Sequence[Target]) -> Split:
    """Both sides; ``model`` knows from here on which classes are not to be drawn in the target's place."""
    check_fit(model, data)
    sides = split(wanted, data, still_there(gone, data))
    model.conditions = replace(model.conditions, excluded=sides.excluded)
    return sides
