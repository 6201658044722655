"""Methods without steps: weights edited in closed form, as a run of their own or as the start of another's.

A run of its own has no loop, no optimiser and no checkpoints; ``metrics.jsonl`` is not written.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from erasediff.api.directory import RunDirectory
from erasediff.api.inputs import PLAIN
from erasediff.api.needs import check_needs, name_of
from erasediff.api.run import Run, peak_memory
from erasediff.data.targets import Class, Concept, Target
from erasediff.errors import BadInput, listing
from erasediff.families.base import Model, ReadsText
from erasediff.files import weight_hashes, write_atomic, write_json
from erasediff.methods import METHODS
from erasediff.methods.base import Method, WeightEdit
from erasediff.report.card import model_card
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import put
from erasediff.training.processes import Processes


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


def texts_of(wanted: Sequence[Target], template: str | None) -> list[str]:
    """What the targets say of themselves, as they stand and as they are asked; nothing where they say nothing."""
    said = [t.text for t in wanted if isinstance(t, Concept)]
    said += [str(t.label) for t in wanted if isinstance(t, Class) and not str(t.label).isdigit()]
    return list(dict.fromkeys([*said, *((template or PLAIN).replace(PLAIN, text) for text in said)]))


def concepts(model: Model, texts: Sequence[str]) -> Model:
    """``model`` with ``texts`` among the classes to be erased. Raises BadInput where the anchor is one of them."""
    if not isinstance(model, ReadsText):
        return model
    conditions, names = model.conditions, model.class_names
    anchor = None if conditions.anchor is None else model.table.prompts[conditions.anchor]
    if anchor in texts or conditions.anchor in conditions.excluded:
        raise BadInput(f"the anchor {anchor!r} is what is to be erased; give one that is to come in its place")
    new = [text for text in texts if text not in names]
    made = model.with_prompts([*names, *new], anchor=anchor)
    erased = (*conditions.excluded, *range(len(names), len(names) + len(new)))
    made.conditions = replace(made.conditions, excluded=erased)
    return made


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
    texts: Sequence[str],
    record: dict[str, Any],
    output_dir: str | Path | None,
    *,
    overwrite: bool,
    dry_run: bool,
) -> Run:
    """Edit ``model`` and save it; nothing is written before the edit is done."""
    place = RunDirectory(Path(output_dir)) if output_dir is not None else None
    if place is not None:
        place.claim(overwrite=overwrite, resume=False)
    asked = concepts(model, texts)
    erased = [asked.class_names[c] for c in asked.conditions.excluded]
    record["plan"] |= {"erased": erased, "preserved": len(asked.conditions.classes())}
    if dry_run:
        return Run(model, [], {**record, "status": "planned"})
    processes, began = Processes.start(), time.perf_counter()
    model.denoiser.to(processes.device)
    weights = method.edit(asked)
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
        _write(model, record, place)
    processes.wait()
    return Run(model, [], record, place.path if place is not None else None)


def _write(model: Model, record: dict[str, Any], place: RunDirectory) -> None:
    place.open(record, fresh=True)
    model.save(place.model)
    record["weights"] = weight_hashes(place.model)
    write_json(place.record, record)
    write_atomic(place.card, model_card(record, None))
