"""The stage `audit`: samples drawn in small files that a piece can end between, and what the judge says of them.

Instruments are those of `erasediff audit`; what is different is that drawing goes on where it stopped. Sample i of a
kind starts from the same noise whatever the model. Relearning is left to `erasediff audit RUN`, which takes these runs.
"""

from __future__ import annotations

import io
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from setting import Setting
from stages import GROUPS, complete, jobs, status
from torch import Tensor

from erasediff import families
from erasediff.api.directory import RunDirectory
from erasediff.api.entries import cost_of
from erasediff.auditing.classifier import RECORD_FILE, Judge, train_classifier
from erasediff.auditing.generate import images
from erasediff.auditing.metrics.classification import (
    forget_measurements,
    retain_measurements,
    unconditional_measurements,
)
from erasediff.auditing.metrics.distribution import distribution_measurements
from erasediff.auditing.result import Measurement
from erasediff.files import read_json, sha256, weight_hashes, write_atomic, write_json
from erasediff.randomness import generator

CHUNK = 500  # samples in one file
MOST = 10_000  # real and drawn images that distributions are compared with: neighbours cost the square of it
SEED = 0  # of the judge and of all noise that is drawn to be judged


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def subjects(setting: Setting) -> dict[str, Path]:
    """Name -> run directory of every model that there is: base, retrained, and LABEL-SEED."""
    places = {name: setting.place / name for name in ("base", "retrained")}
    places |= {f"{job.label}-{job.seed}": place for g in GROUPS for place, (job, _) in jobs(setting, g).items()}
    return {name: place for name, place in places.items() if status(place) == "completed"}


def judge_of(setting: Setting) -> Judge:
    """The classifier that judges every model, trained once on the training images and kept."""
    folder = setting.place / "classifier"
    if not (folder / RECORD_FILE).exists():
        print("audit: training the classifier", flush=True)
        data = setting.data
        kept, held = ~data.held_out, data.held_out
        labels = torch.as_tensor(data.labels)
        train_classifier(
            data.floats(kept).to(device()),
            labels[kept].to(device()),
            num_classes=len(data.class_names),
            held_out=(data.floats(held).to(device()), labels[held].to(device())),
            steps=setting.sizes.judge_steps,
            seed=SEED,
            class_names=data.class_names,
            trained_on=f"{data.spec} (training part)",
        ).save(folder)
    judge = Judge.load(folder)
    judge.module.to(device())
    return judge


def audit_all(setting: Setting) -> None:
    """Draw from, and judge, every model that there is and that was not judged in this way yet."""
    judge = judge_of(setting)
    real = None
    for name, place in subjects(setting).items():
        asked, path = _asked(setting, place), setting.place / "audits" / f"{name}.json"
        if path.exists() and read_json(path)["asked"] == asked:
            continue
        setting.piece.check()
        print(f"audit: {name}", flush=True)
        drawn = _drawn(setting, place, setting.place / "samples" / name, asked)
        if real is None:
            real = _real_features(setting, judge)
        found = _judged(setting, judge, drawn, real, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"subject": name, "asked": asked, "measurements": [asdict(m) for m in found], "cost": _cost(place)}
        write_json(path, record)


def left(setting: Setting) -> str:
    """How many models were not judged yet, in words; empty where none is left."""
    found = subjects(setting)
    path = setting.place / "audits"
    waiting = [n for n in found if not (path / f"{n}.json").exists() or not _is_of(setting, n, found[n])]
    return f"audit ({len(waiting)} of {len(found)} models)" if waiting or not found else ""


def _is_of(setting: Setting, name: str, place: Path) -> bool:
    if not (setting.place / "classifier" / RECORD_FILE).exists():
        return False
    return bool(read_json(setting.place / "audits" / f"{name}.json")["asked"] == _asked(setting, place))


def _asked(setting: Setting, place: Path) -> dict[str, Any]:
    """What makes two judgements comparable, and which weights were judged."""
    sizes = setting.sizes
    return {
        "weights": weight_hashes(place / "model"),
        "judge": sha256(setting.place / "classifier" / RECORD_FILE),
        "forget": sizes.forget,
        "per_class": sizes.per_class,
        "unconditional": sizes.unconditional,
        "num_inference_steps": sizes.num_inference_steps,
        "guidance_scale": sizes.guidance_scale,
        "resamples": sizes.resamples,
    }


def _retained(setting: Setting) -> list[int]:
    return [c for c in range(len(setting.data.class_names)) if c not in setting.forgotten]


def _drawn(setting: Setting, place: Path, folder: Path, asked: dict[str, Any]) -> dict[str, Tensor]:
    """uint8 [N, C, H, W] of each kind; what earlier pieces drew of the same weights in the same way is kept."""
    sizes, label = setting.sizes, setting.forgotten
    said = {k: asked[k] for k in ("weights", "num_inference_steps", "guidance_scale")}
    if folder.exists() and (not (folder / "of.json").exists() or read_json(folder / "of.json") != said):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "of.json", said)
    wanted: dict[str, Tensor | None] = {
        "forget": torch.tensor(label).repeat(-(-sizes.forget // len(label)))[: sizes.forget],
        "retain": torch.tensor(_retained(setting)).repeat(sizes.per_class),
        "unconditional": None,
    }
    model = families.load(place)
    layout = torch.channels_last if torch.cuda.is_available() else torch.contiguous_format
    model.denoiser.to(device(), memory_format=layout)
    found = {}
    for kind, labels in wanted.items():
        count = sizes.unconditional if labels is None else len(labels)
        parts = []
        for first in range(0, count, CHUNK):
            size, path = min(CHUNK, count - first), folder / f"{kind}-{first // CHUNK:04}.npy"
            kept = _read(path)
            if kept is None or len(kept) != size:
                setting.piece.check()
                rows = None if labels is None else labels[first : first + size]
                kept = _draw(model, rows, size, f"{kind}/{first // CHUNK}", setting)
                _write(path, kept)
            parts.append(torch.from_numpy(kept))
        found[kind] = torch.cat(parts)
    return found


def _draw(model: Any, labels: Tensor | None, count: int, kind: str, setting: Setting) -> np.ndarray:
    sizes = setting.sizes
    drawn = images(
        model,
        labels,
        count,
        seed=SEED,
        kind=kind,
        guidance_scale=sizes.guidance_scale,
        num_inference_steps=sizes.num_inference_steps,
    )
    return np.asarray(((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy())


def _read(path: Path) -> np.ndarray | None:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None


def _write(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def _real_features(setting: Setting, judge: Judge) -> Tensor:
    """Features of training images of the retained classes."""
    data = setting.data
    kept = ~data.held_out & torch.isin(torch.as_tensor(data.labels), torch.tensor(_retained(setting)))
    rows = kept.nonzero()[:, 0]
    chosen = rows[torch.randperm(len(rows), generator=generator(SEED, 0, "real"))[:MOST]]
    return judge.features(data.images[chosen])


def _judged(setting: Setting, judge: Judge, drawn: dict[str, Tensor], real: Tensor, name: str) -> list[Measurement]:
    classes, asked = setting.forgotten, torch.tensor(_retained(setting)).repeat(setting.sizes.per_class)
    said = {name: judge.probabilities(drawn[name]) for name in drawn}
    return [
        *forget_measurements(said["forget"], classes, subject=name, seed=SEED),
        *unconditional_measurements(said["unconditional"], classes, subject=name, seed=SEED),
        *retain_measurements(said["retain"], asked, subject=name, class_names=setting.data.class_names),
        *distribution_measurements(
            real,
            judge.features(drawn["retain"][:MOST]),
            subject=name,
            seed=SEED,
            features="classifier",
            resamples=setting.sizes.resamples,
        ),
    ]


def _cost(place: Path) -> dict[str, float]:
    directory = RunDirectory(place)
    return cost_of(place, directory.read()) if directory.record.exists() and complete(place) else {}
