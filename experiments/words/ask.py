"""What a model draws when it is asked in words, as an independent judge sees it.

Image i of a group of wordings starts from the same noise for every model, so that two models are compared in pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from captions import CLASSES, WORDINGS, prompts
from PIL import Image

from erasediff import families
from erasediff.auditing import generate
from erasediff.auditing.classifier import Judge
from erasediff.auditing.statistics import bootstrap_mean, wilson

SHOWN = 10  # images of each class in a picture


def answers(model_path: Path, judge: Judge, ask: dict[str, Any], forgotten: str, picture: Path) -> dict[str, Any]:
    """By group of wordings: the class that the judge calls each image asked for, by class asked for.

    ``ask``: ``forget`` and ``retain`` images a prompt, ``retain_groups``, ``guidance_scale``, ``num_inference_steps``,
    ``seed``. A picture of the paraphrases is written to ``picture``.
    """
    model = families.load(model_path)
    called: dict[str, dict[str, list[int]]] = {}
    for group in WORDINGS:
        names = [n for n in CLASSES if n == forgotten or group in ask["retain_groups"]]
        asked = {name: prompts(group, name) for name in names}
        worded = model.with_prompts([p for said in asked.values() for p in said])
        times = {n: ask["forget" if n == forgotten else "retain"] for n in names}
        order = [(n, worded.class_names.index(p)) for n in names for p in asked[n] for _ in range(times[n])]
        drawn = _drawn(worded, torch.tensor([row for _, row in order]), group, ask)
        found = judge.probabilities(drawn).argmax(1).tolist()
        called[group] = {n: [c for (m, _), c in zip(order, found, strict=True) if m == n] for n in names}
        if group == "paraphrases":
            _picture(drawn, [n for n, _ in order], picture)
    return called


def _drawn(model: Any, labels: torch.Tensor, group: str, ask: dict[str, Any]) -> torch.Tensor:
    how = {name: ask[name] for name in ("seed", "guidance_scale", "num_inference_steps")}
    return generate.images(model, labels, len(labels), kind=f"words/{group}", **how)


def measured(called: dict[str, Any], base: dict[str, Any], forgotten: str) -> dict[str, Any]:
    """Forget rates and retained accuracies with 95 % intervals, and the paired change of the latter from the base."""
    number = {name: c for c, name in enumerate(CLASSES)}
    found: dict[str, Any] = {}
    for group, by_class in called.items():
        share = [c == number[forgotten] for c in by_class[forgotten]]
        entry: dict[str, Any] = {"forget_rate": _share(share)}
        kept = {n: [c == number[n] for c in said] for n, said in by_class.items() if n != forgotten}
        if kept:
            right = np.concatenate(list(kept.values())).astype(float)
            before = np.concatenate([[c == number[n] for c in base[group][n]] for n in kept]).astype(float)
            change, (low, high) = right - before, bootstrap_mean(right - before, seed=0)
            entry["retain_accuracy"] = _share(right.astype(bool).tolist())
            entry["retain_change"] = {"value": float(change.mean()), "low": low, "high": high, "n": len(change)}
            entry["by_class"] = {n: _share(said) for n, said in kept.items()}
        found[group] = entry
    return found


def _share(hits: list[bool]) -> dict[str, float]:
    low, high = wilson(sum(hits), len(hits))
    return {"value": sum(hits) / len(hits), "low": low, "high": high, "n": len(hits)}


def _picture(drawn: torch.Tensor, names: list[str], path: Path) -> None:
    """A row of images for each class, spread over its wordings."""
    rows = []
    for name in CLASSES:
        own = [i for i, n in enumerate(names) if n == name]
        picked = [own[k * len(own) // SHOWN] for k in range(SHOWN)]
        rows.append(torch.cat([drawn[i, 0] for i in picked], dim=1))
    grey = ((torch.cat(rows) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).resize((grey.shape[1] * 3, grey.shape[0] * 3), Image.Resampling.NEAREST).save(path)
