"""One setting of one method, looked at several times on its way: how the defaults were searched (search.md).

    python experiments/images/trial.py --base runs/mnist/base-1 --data small-mnist.npz --target class:4 \
        --classifier runs/mnist/judge --at 60 120 --set method=erasediff eta=0.3 learning_rate=1e-3

A look draws 300 samples of the target, 300 without a condition and 200 of each other class with the averaged weights,
and prints a line of JSON. ``seconds`` is processor time of the method's own work. ``--at 0`` looks at the base model,
``--way 0.8`` at weights that are so much of the way from the base model's to the averaged ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from erasediff.auditing.classifier import Judge
from erasediff.auditing.generate import images
from erasediff.auditing.metrics.balls import neighbourhoods
from erasediff.auditing.metrics.distribution import frechet_distance
from erasediff.data import sources, targets
from erasediff.data.images import ImageData
from erasediff.families.base import Model
from erasediff.families.precision import AUTOCAST, FULL
from erasediff.training.config import TrainingConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from contestants import Contestant

TARGET_SAMPLES, REAL = 300, 3000
SAMPLING: dict[str, Any] = {"seed": 0, "guidance_scale": 1.5, "num_inference_steps": 12}


def look(
    model: Model, judge: Judge, data: ImageData, split: targets.Split, per_class: int, mixed_precision: str
) -> dict[str, float]:
    """Forget rates, retained accuracy, Frechet distance, precision and recall."""
    sampling = {**SAMPLING, "mixed_precision": mixed_precision}
    wanted = torch.tensor(split.classes)
    kept = [c for c in range(len(data.class_names)) if c not in split.excluded]
    asked = torch.tensor(kept).repeat(per_class)
    labels = wanted.repeat(TARGET_SAMPLES)[:TARGET_SAMPLES]
    forgotten = images(model, labels, TARGET_SAMPLES, kind="forget", **sampling)
    free = images(model, None, TARGET_SAMPLES, kind="unconditional", **sampling)
    drawn = images(model, asked, len(asked), kind="retain", **sampling)
    right = judge.probabilities(drawn).argmax(1) == asked
    real, features = judge.features(data.floats(split.retain)), judge.features(drawn)
    around = neighbourhoods(real[:REAL], features)
    return {
        "forget_rate": _share(judge, forgotten, wanted),
        "unconditional": _share(judge, free, wanted),
        "accuracy": float(right.double().mean()),
        "worst": min(float(right[asked == c].double().mean()) for c in kept),
        "frechet": frechet_distance(real, features),
        "precision": float(around.precise.mean()),
        "recall": float(around.recalled.mean()),
    }


def _share(judge: Judge, drawn: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(torch.isin(judge.probabilities(drawn).argmax(1), wanted).double().mean())


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """``field=value`` as a contestant takes them: the loop's fields apart from the method's."""
    given = {k: yaml.safe_load(v) for k, _, v in (pair.partition("=") for pair in pairs)}
    given = {k: float(v) if isinstance(v, str) and v[:1].isdigit() else v for k, v in given.items()}
    training = {k: v for k, v in given.items() if k in TrainingConfig.__dataclass_fields__}
    return {**{k: v for k, v in given.items() if k not in training}, "training": training}


@contextmanager
def part_way(model: Model, start: Sequence[torch.Tensor], way: float) -> Iterator[Model]:
    """Within the block the weights are so much of the way from ``start``."""
    end = [p.detach().clone() for p in model.denoiser.parameters()]
    _put(model, [torch.lerp(s, e, way) for s, e in zip(start, end, strict=True)])
    try:
        yield model
    finally:
        _put(model, end)


def _put(model: Model, weights: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(model.denoiser.parameters(), weights, strict=True):
            parameter.copy_(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--at", type=int, nargs="+", default=[60, 120], help="steps at which it is looked at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="of the method and of the loop")
    parser.add_argument("--per_class", type=int, default=200, help="samples of each other class in a look")
    parser.add_argument("--way", type=float, nargs="+", default=[1.0], help="shares of the way from the base model")
    parser.add_argument("--mixed_precision", default=FULL, choices=list(AUTOCAST), help="of what is drawn in a look")
    given = parser.parse_args()
    data, judge = sources.load(given.data), Judge.load(given.classifier)
    split = targets.split([targets.parse(given.target)], data)
    settings = settings_of(given.set)
    settings["training"] = {"max_train_steps": max(given.at), **settings["training"]}
    contestant = Contestant("erasediff", given.base, data, split, settings, given.seed)
    contestant.prepare(float("inf"))
    with contestant.saved() as model:
        start = [p.detach().clone() for p in model.denoiser.parameters()]
    for steps in given.at:
        contestant.advance(steps)
        spent = {"step": steps, "seconds": round(contestant.seconds, 1)}
        for way in given.way:
            with contestant.saved() as model, part_way(model, start, way):
                found = look(model, judge, data, split, given.per_class, given.mixed_precision)
            print(json.dumps({"settings": given.set, **spent, "way": way, **found}), flush=True)


if __name__ == "__main__":
    main()
