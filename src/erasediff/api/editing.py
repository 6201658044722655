"""Methods without steps: weights edited in closed form, as a run of their own or as the start of another's.

A run of its own has no loop, no optimiser and no checkpoints; ``metrics.jsonl`` is not written.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from erasediff.api.directory import RunDirectory
from erasediff.api.inputs import PLAIN
from erasediff.api.needs import check_needs, name_of
from erasediff.api.run import Run, peak_memory
from erasediff.api.weights import keep
from erasediff.data.images import ImageData
from erasediff.data.targets import Class, Concept, Target
from erasediff.errors import BadInput, listing
from erasediff.families.base import Model, ReadsText
from erasediff.methods import METHODS
from erasediff.methods.base import Concepts, Method, WeightEdit
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import put
from erasediff.training.processes import Processes

ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)


def beginning(
    init: WeightEdit | str | None, method: Method, model: Model, forgotten: Tensor | None
) -> WeightEdit | None:
    """The edit that a run of ``method`` starts from. Raises BadInput for one that takes steps, or cannot be done."""
    begin = METHODS[init]() if isinstance(init, str) else init
    if begin is None:
        return None
    if not isinstance(begin, WeightEdit):
        edits = listing(name for name in METHODS if isinstance(METHODS[name](), WeightEdit))
        raise BadInput(f"init {name_of(begin)} takes steps of its own; a run can start from: {edits}")
    if isinstance(method, WeightEdit):
        raise BadInput(f"init means nothing to method {name_of(method)}, which takes no steps; leave it out")
    check_needs(begin, model, forgotten)
    return begin


def texts_of(wanted: Sequence[Target], data: ImageData) -> list[str]:
    """What the targets call themselves; of samples nothing."""
    said = [t.text for t in wanted if isinstance(t, Concept)]
    said += [data.class_names[c] for t in wanted if isinstance(t, Class) for c in t.classes(data)]
    return list(dict.fromkeys(said))


def concepts(model: Model, texts: Sequence[str], template: str | None) -> tuple[Model, Concepts]:
    """``model`` asked in all prompts that an edit is about, and which of them are to go.

    To go are the excluded classes and the targets' own ``texts``, as they stand and as they are asked. Each is to be
    read as the same prompt with the anchor in its place. Raises BadInput where that is itself to be erased.
    """
    if not isinstance(model, ReadsText):
        return model, Concepts.of(model.conditions)
    conditions, names = model.conditions, model.class_names
    anchor = None if conditions.anchor is None else model.table.prompts[conditions.anchor]
    own = [said for text in texts for said in (text, (template or PLAIN).replace(PLAIN, text))]
    erased = list(dict.fromkeys([*(names[c] for c in conditions.excluded), *own]))
    if anchor is not None and (anchor in erased or _saying(texts).search(anchor)):
        raise BadInput(f"the anchor {anchor!r} says what is to be erased; give one that is to come in its place")
    own_anchors = {names[c]: model.table.prompts[led] for c, led in conditions.anchors}
    instead = {} if anchor is None else {p: replaced(p, texts, own_anchors.get(p, anchor)) for p in erased}
    made = model.with_prompts([*names, *erased, *instead.values()], anchor=anchor)
    table = made.table if isinstance(made, ReadsText) else model.table
    label = {prompt: row for row, prompt in enumerate(table.prompts)}
    gone = tuple(label[prompt] for prompt in erased)
    led = {label[one]: label[other] for one, other in instead.items()}
    return made, Concepts(erased=gone, kept=tuple(sorted({*label.values()} - {*gone})), instead=led)


def replaced(prompt: str, texts: Sequence[str], anchor: str) -> str:
    """``prompt`` with ``anchor`` where it says one of ``texts`` (whole words, in any case); else the anchor alone.

    An article that the anchor brings takes the place of the one before, and is left out after any other word.
    """
    bare = ARTICLE.sub("", anchor, count=1)

    def instead(found: re.Match[str]) -> str:
        article, begins = found.group(1), found.start() == 0
        return anchor if bare != anchor and (article or begins) else (article or "") + bare

    said = _saying(texts)
    return said.sub(instead, prompt) if said.search(prompt) else anchor


def _saying(texts: Sequence[str]) -> re.Pattern[str]:
    """Where a prompt says one of ``texts``, the longest first, with the article before it in a group of its own."""
    words = "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or "(?!)"
    return re.compile(rf"(?<!\w)((?:an?|the)\s+)?(?:{words})(?!\w)", re.IGNORECASE)


def check_settings(method: WeightEdit, config: TrainingConfig, resume_from_checkpoint: str | None) -> None:
    """Raise BadInput for what only a run with steps can be asked for."""
    name = name_of(method)
    for what, given in (
        ("resume_from_checkpoint", resume_from_checkpoint),
        ("retain_budget", config.retain_budget),
        ("slack_tolerance", config.slack_tolerance),
    ):
        if given is not None:
            raise BadInput(f"{what} means nothing to method {name}, which takes no steps; leave it out")
    if config.parameters != TrainingConfig().parameters:
        raise BadInput(
            f"parameters {config.parameters!r} cannot be kept to: method {name} chooses the weights that it edits, "
            "those that read text; leave it out"
        )


def run_edit(
    method: WeightEdit,
    model: Model,
    asked: tuple[Model, Concepts],
    record: dict[str, Any],
    output_dir: str | Path | None,
    *,
    overwrite: bool,
    dry_run: bool,
) -> Run:
    """Edit ``model``, which is ``asked`` as :func:`concepts` says; nothing is written before the edit is done."""
    place = RunDirectory(Path(output_dir)) if output_dir is not None else None
    if place is not None:
        place.claim(record, overwrite=overwrite, resume=False)
    worded, about = asked
    erased = [worded.class_names[c] for c in about.erased]
    record["plan"] |= {"erased": erased, "preserved": len(about.kept)}
    if dry_run:
        return Run(model, [], {**record, "status": "planned"})
    processes, began = Processes.start(), time.perf_counter()
    model.denoiser.to(processes.device)
    weights = method.edit(worded, about)
    put(model.denoiser, weights)
    record |= {
        "status": "completed",
        "steps": 0,
        "stopped": {"reason": "closed_form", "detail": f"{len(weights)} weight matrices were edited in closed form"},
        "cost": {
            "seconds": time.perf_counter() - began,
            "preparation_seconds": 0.0,
            "steps": 0,
            "forward_equivalents": 0.0,
            "peak_memory_bytes": peak_memory(),
        },
    }
    if place is not None and processes.is_main:
        place.open(record, fresh=True)
        record = keep(model, None, record, place)
    processes.wait()
    return Run(model, [], record, place.path if place is not None else None)
