"""Erase a class as the released code of EraseDiff does, into a run directory that `erasediff audit` and `compare` read.

    python experiments/released_code/run.py MODEL --target class:7 --data digits --output_dir runs/released

Every field of `Settings` in loop.py is a flag.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from loop import ReleasedCode, Settings, Step, released

from erasediff.api.directory import RunDirectory
from erasediff.api.inputs import check_fit, check_target_kinds, load_data, load_model, parsed_targets
from erasediff.api.run import new_record
from erasediff.cli.bridge import Parser, add_fields, chosen_fields
from erasediff.data import targets
from erasediff.errors import EraseDiffError, StoppedShort, listing
from erasediff.files import weight_hashes, write_atomic, write_json
from erasediff.report.card import model_card
from erasediff.training.callbacks import MetricsFile, Progress
from erasediff.training.config import TrainingConfig

NAME = "released_code"
PAPER = "arXiv:2401.05779"
# Said there, not in the method.
IN_TRAINING = {"batch_size", "learning_rate", "adam_beta1", "adam_beta2", "max_grad_norm", "ema_decay", "seed"}


def erase_as_released(
    model: str | Path,
    target: Sequence[str],
    data: str | None,
    output_dir: str | Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run the loop and write the run directory. Raises BadInput, and StoppedShort where a loss is not finite."""
    wanted, (base, source, hashes) = parsed_targets(target), load_model(model)
    images = load_data(data, source)
    check_fit(base, images)
    check_target_kinds(wanted, base.family)
    split = targets.split(wanted, images)
    base.denoiser.to("cuda" if torch.cuda.is_available() else "cpu")
    place, loop = RunDirectory(Path(output_dir)), released(base, images, split, settings)
    inner, outer = loop.planned
    record = new_record(
        "erase",
        training_of(settings, outer),
        target=[str(t) for t in wanted],
        method={
            "name": NAME,
            "fields": {k: v for k, v in asdict(settings).items() if k not in IN_TRAINING},
            "paper": PAPER,
        },
        data={"spec": images.spec, "sha256": images.fingerprint(), "n": len(split.forget) + len(split.retain)},
        base_model={"source": str(source) if source else None, "sha256": hashes},
        plan={
            "forget_samples": len(split.forget),
            "retain_samples": len(split.retain),
            "inner_optimiser_steps": inner,
            "outer_optimiser_steps": outer,
        },
    )
    place.claim(record, overwrite=overwrite, resume=False)
    place.open(record, fresh=True)
    return complete(loop, record, place, f"{NAME} {listing(wanted)}", quiet=quiet)


def training_of(settings: Settings, outer: int) -> TrainingConfig:
    """The settings in the library's words; its steps are the outer ones."""
    return TrainingConfig(
        max_train_steps=outer,
        learning_rate=settings.learning_rate,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        train_batch_size=settings.batch_size,
        max_grad_norm=settings.max_grad_norm,
        ema_decay=settings.ema_decay,
        seed=settings.seed,
        checkpointing_steps=0,
    )


def complete(
    loop: ReleasedCode, record: dict[str, Any], place: RunDirectory, title: str, *, quiet: bool
) -> dict[str, Any]:
    """Take every step, save the averaged weights, and say how it ended."""
    callbacks = [Progress(loop.planned[1], 0, title, disable=quiet), MetricsFile(place.metrics, 0)]
    began, broken = time.perf_counter(), ""
    for step in loop:
        if not all(bool(torch.isfinite(value)) for value in step.log.values()):
            broken = f"a loss of {step.kind} step {step.number} is not finite"
            break
        if step.kind == "outer":
            for callback in callbacks:
                callback.steps([logged(step, time.perf_counter() - began)])
    for callback in callbacks:
        callback.end()
    record = {**record, **ending(loop, broken, time.perf_counter() - began)}
    if not broken:
        with loop.averaged():
            loop.model.save(place.model)
        record["weights"] = weight_hashes(place.model)
    write_json(place.record, record)
    write_atomic(place.card, model_card(record, None))
    if broken:
        raise StoppedShort(f"the run diverged: {broken}; try a smaller --learning_rate")
    return record


def logged(step: Step, seconds: float) -> dict[str, float]:
    """An outer step as a line of metrics.jsonl."""
    losses = {name: float(value) for name, value in step.log.items()}
    return {"step": step.outer, "optimiser_step": step.number, **losses, "seconds": seconds}


def ending(loop: ReleasedCode, broken: str, seconds: float) -> dict[str, Any]:
    """How the run ended and what it cost. Steps are outer steps, as elsewhere: those that leave something behind."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {
        "status": "diverged" if broken else "completed",
        "steps": loop.outer,
        "stopped": {"reason": "diverged" if broken else "max_train_steps", "detail": broken or "all steps were taken"},
        "cost": {
            "seconds": seconds,
            "preparation_seconds": 0.0,
            "steps": loop.outer,
            "optimiser_steps": loop.number,
            "forward_equivalents": loop.spent / loop.settings.batch_size,
            "peak_memory_bytes": peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
    }


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="run.py", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="pipeline directory or run directory")
    parser.add_argument("--target", metavar="TARGET", action="append", required=True, help="class:7 (repeatable)")
    parser.add_argument("--data", default=None, help="as for erasediff erase; by default what the model's run names")
    parser.add_argument("--output_dir", metavar="DIR", required=True)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_fields(parser, Settings, "the loop")
    try:
        given = parser.parse(argv)
        common = {k: given[k] for k in ("model", "target", "data", "output_dir", "overwrite", "quiet")}
        record = erase_as_released(**common, settings=Settings(**chosen_fields(Settings, given)))
    except EraseDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    cost = record["cost"]
    print(f"{cost['steps']} outer of {cost['optimiser_steps']} optimiser steps; model in {common['output_dir']}/model")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
