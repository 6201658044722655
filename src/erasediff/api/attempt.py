"""One run of a plan: made, finished from its checkpoint, or recognised as done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from erasediff.api.directory import AUDIT, RunDirectory
from erasediff.api.entries import added
from erasediff.api.erase import erase
from erasediff.api.plan_jobs import Job
from erasediff.data.images import ImageData
from erasediff.errors import BadInput, StoppedShort
from erasediff.files import read_json, write_json
from erasediff.report.aggregate import COMPLETED, DIVERGED
from erasediff.training.checkpoint import listed

NOT_FINITE = "weights are not finite after the last step"


def finished(place: Path, asked: Mapping[str, Any]) -> bool:
    """Whether there is nothing left to do: it was audited in this way, or there is nothing that could be audited."""
    try:
        record = RunDirectory(place).read()
    except BadInput:
        return False
    status = record.get("status")
    return status == DIVERGED or (status == COMPLETED and (audit_is(place, asked) or broken(place)))


def audit_is(place: Path, asked: Mapping[str, Any]) -> bool:
    """Whether the run in ``place`` was audited, and in the way that ``asked`` says."""
    return audited(RunDirectory(place).audit, asked)


def audited(place: Path, asked: Mapping[str, Any]) -> bool:
    """Whether there is an audit in ``place`` itself, made in the way that ``asked`` says."""
    path = place / AUDIT
    return path.exists() and read_json(path).get("setting", {}).get("asked") == asked


def broken(place: Path) -> bool:
    """Whether the last step left weights that are not finite, though every loss was: no model to audit."""
    from safetensors.torch import load_file

    files = sorted(RunDirectory(place).output.rglob("*.safetensors"))
    return any(not bool(torch.isfinite(t).all()) for f in files for t in load_file(f).values())


def attempt(
    job: Job, place: Path, data: ImageData, *, quiet: bool = False, say: Callable[[str], None] = lambda text: None
) -> None:
    """The run of ``job``: nothing where it is complete, its rest where there is a checkpoint, else all of it."""
    directory = RunDirectory(place)
    status = directory.read().get("status") if directory.record.exists() else None
    if status == COMPLETED:
        return
    resume = status is not None and bool(listed(directory.checkpoints))
    if resume:
        _keep_cost(directory)
    else:
        shutil.rmtree(directory.path, ignore_errors=True)
    _forget_peak()
    try:
        erase(
            job.model,
            job.target,
            data,
            job.method,
            model_config=job.model_config,
            output_dir=directory.path,
            resume_from_checkpoint="latest" if resume else None,
            quiet=quiet,
            **job.training,
        )
    except StoppedShort as error:
        say(f"    {error}")  # run.json says so too; the row is kept


def _keep_cost(directory: RunDirectory) -> None:
    """Write down what the run had cost so far: run.json counts only what its last process did.

    An interrupted run said it itself. Of a killed one the steps up to the checkpoint are known, and their seconds.
    """
    record, path = directory.read(), directory.earlier_cost
    earlier = read_json(path) if path.exists() else {}
    if record.get("status") == "interrupted":
        write_json(path, added(earlier, record.get("cost") or {}))
        return
    step = int(listed(directory.checkpoints)[-1].name.rpartition("-")[2])
    since = step - int(earlier.get("steps", 0))
    if since > 0:
        each = float((record.get("plan") or {}).get("forward_equivalents_per_step", 0))
        lost = {"steps": since, "seconds": _seconds_at(directory.metrics, step), "forward_equivalents": since * each}
        write_json(path, added(earlier, lost))


def _seconds_at(metrics: Path, step: int) -> float:
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the line that a kill cut short
            break
        if record.get("step") == step:
            return float(record.get("seconds", 0.0))
    return 0.0


def _forget_peak() -> None:
    """Start the record of peak memory anew, so that a run is not charged for the audit before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of this process begins at what it holds now
    except OSError:
        return
