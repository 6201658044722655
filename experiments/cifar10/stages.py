"""The stages that train: base, retrained, control, erase. Each goes on where it stopped, and skips what is complete."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from setting import Setting

from erasediff.api.attempt import attempt
from erasediff.api.directory import RunDirectory
from erasediff.api.erase import method_named
from erasediff.api.plan_jobs import Job
from erasediff.api.run import with_fields
from erasediff.api.train import train
from erasediff.api.weights import steps_of
from erasediff.data import targets
from erasediff.errors import BadInput, check_one_of
from erasediff.files import read_json, write_json
from erasediff.training.checkpoint import listed
from erasediff.training.config import ERASE_DEFAULTS

METHODS = Path(__file__).with_name("methods.yaml")
GROUPS = ("control", "erase")


def status(place: Path) -> str:
    """completed, diverged, interrupted, running or missing; completed too where only a model was carried here."""
    directory = RunDirectory(place)
    if directory.record.exists():
        return str(directory.read().get("status"))
    return "completed" if (directory.model / "model_index.json").exists() else "missing"


def complete(place: Path) -> bool:
    return status(place) in ("completed", "diverged")


def reached(place: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    found = listed(RunDirectory(place).checkpoints)
    return int(found[-1].name.rpartition("-")[2]) if found else 0


def train_model(setting: Setting, name: str) -> None:
    """``base`` from all training images, or ``retrained`` from those without the target."""
    place = setting.place / name
    if complete(place):
        return
    setting.piece.check()
    resume = (place / "run.json").exists() and bool(reached(place))
    print(f"{name}: {'from step ' + str(reached(place)) if resume else 'from the beginning'}", flush=True)
    train(
        setting.data,
        output_dir=place,
        exclude=[setting.target] if name == "retrained" else [],
        architecture=setting.architecture(),
        training=setting.training(),
        overwrite=not resume,
        resume_from_checkpoint="latest" if resume else None,
        quiet=True,
    )


def entries(setting: Setting, group: str) -> dict[str, dict[str, Any]]:
    """Label -> what methods.yaml says of it, for the labels that are wanted."""
    content: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(METHODS.read_text())
    known = [label for g in GROUPS for label in content[g]]
    for label in setting.methods:
        check_one_of("method", label, known)
    wanted = setting.methods
    return {k: v for k, v in content[group].items() if (k in wanted if wanted else not v.get("optional"))}


def jobs(setting: Setting, group: str) -> dict[Path, tuple[Job, dict[str, Any]]]:
    """Place -> the run that belongs there, and the settings that make it what it is; seed by seed."""
    found = {}
    for seed in setting.seeds:
        for label, entry in entries(setting, group).items():
            job, place = _job(setting, label, dict(entry), seed), setting.place / "runs" / label / str(seed)
            found[place] = (job, {"entry": entry, "erase_steps": setting.sizes.erase_steps})
    return found


def _job(setting: Setting, label: str, entry: dict[str, Any], seed: int) -> Job:
    entry.pop("optional", None)
    name, training = entry.pop("method", label), entry.pop("training", {})
    method, sizes = method_named(name, entry), setting.sizes
    method = replace(method, **{k: v for k, v in sizes.fields.items() if hasattr(method, k)})  # type: ignore[type-var]
    if hasattr(method, "fisher_file"):  # a piece may end while it is being prepared: the Fisher matrix is kept
        fisher = setting.place / "fisher" / f"{label}-{seed}.safetensors"
        method = replace(method, fisher_file=str(fisher))  # type: ignore[type-var]
    target = (targets.parse(setting.target),)
    fields = steps_of("unet2d", {**setting.erasing(seed), **training}, target, method)
    config = with_fields(ERASE_DEFAULTS, ERASE_DEFAULTS, fields)
    if sizes.erase_steps is not None:
        config = replace(config, max_train_steps=min(config.max_train_steps, sizes.erase_steps))
    return Job(
        label=label, target=target, seed=seed, method=method, training=asdict(config), model=setting.base / "model"
    )


def erase_all(setting: Setting, group: str) -> None:
    """Every run of the group that is not complete."""
    if status(setting.base) != "completed":
        raise BadInput(
            f"stage {group} needs the base model, and {setting.base} is not complete; run --stage base first"
        )
    planned = jobs(setting, group)
    for place, (job, made_by) in planned.items():
        said = place.with_suffix(".json")
        if place.exists() and said.exists() and read_json(said) != made_by:
            raise BadInput(f"{place} was made with other settings than methods.yaml has now; delete it and {said.name}")
        if complete(place):
            continue
        setting.piece.check()
        print(f"{group}: {job.label}, seed {job.seed}, from step {reached(place)}", flush=True)
        said.parent.mkdir(parents=True, exist_ok=True)
        write_json(said, made_by)
        if fisher := getattr(job.method, "fisher_file", ""):
            Path(fisher).parent.mkdir(parents=True, exist_ok=True)
        attempt(job, place, setting.data, quiet=True, say=print)
        shutil.rmtree(RunDirectory(place).checkpoints, ignore_errors=True)
        if fisher:
            Path(fisher).unlink(missing_ok=True)


def left(setting: Setting, stage: str) -> str:
    """What is left of a stage, in words; empty where nothing is."""
    if stage in GROUPS:
        waiting = [place for place in jobs(setting, stage) if not complete(place)]
        return f"{stage} ({len(waiting)} of {len(jobs(setting, stage))} runs)" if waiting else ""
    place = setting.place / stage
    return "" if complete(place) else f"{stage} (at step {reached(place)} of {setting.sizes.train_steps})"
