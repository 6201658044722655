"""Which defaults of EraseDiff are best: one factor at a time around the defaults, on several data sets and seeds.

    python experiments/defaults/run.py --data digits --seeds 0 1 2 --output_dir runs/defaults-digits
    python experiments/images/small.py path/to/mnist small-mnist.npz
    python experiments/defaults/run.py --data small-mnist.npz --seeds 0 --train_steps 1000 --per_class 40 \
        --output_dir runs/defaults-mnist

Base models, the judge and finished trials stay in the output directory, so that an interrupted run goes on. Writes
results-SEED.json (a row a trial) and table.md (a row a setting: means over seeds, worst seed for what must not fail).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from erasediff.api.audit import judge_for
from erasediff.api.erase import erase
from erasediff.api.inputs import load_model
from erasediff.api.train import train
from erasediff.auditing.classifier import Judge
from erasediff.auditing.generate import images
from erasediff.auditing.metrics.distribution import frechet_distance
from erasediff.data import sources
from erasediff.data.images import ImageData
from erasediff.families.architecture import Architecture
from erasediff.families.base import Model
from erasediff.files import write_atomic, write_json
from erasediff.methods.erasediff import EraseDiff

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "forget_target noise": {"forget_target": "noise"},
    "forget_target unconditional": {"forget_target": "unconditional"},
    "forget_target redirect": {"forget_target": "redirect"},
    "retain denoise": {"retain": "denoise"},
    "retain distill": {"retain": "distill"},
    "retain blend": {"retain": "blend"},
    "others uniform": {"others": "uniform"},
    "repulsion 0": {"repulsion": 0.0},
    "repulsion 0.25": {"repulsion": 0.25},
    "repulsion 1": {"repulsion": 1.0},
    "null_share 0": {"null_share": 0.0},
    "retain_null_share 0.4": {"retain_null_share": 0.4},
    "retain_focus 0": {"retain_focus": 0.0},
    "residual 0": {"residual": 0.0},
    "timestep_focus 0.5": {"timestep_focus": 0.5},
    "weighting hellinger": {"weighting": "hellinger"},
    "eta 0.1": {"eta": 0.1},
    "eta 1": {"eta": 1.0},
    "eta_end 0.3": {"eta_end": 0.3},
    "rule dynamic_barrier": {"rule": "dynamic_barrier"},
    "rule adam_barrier": {"rule": "adam_barrier", "max_grad_norm": 0.0},
    "rule value_barrier": {"rule": "value_barrier"},
    "rule munba": {"rule": "munba"},
    "rule constant 0.1": {"rule": "constant", "multiplier": 0.1},
    "slack_tolerance 0.05": {"slack_tolerance": 0.05},
    "parameters up_blocks": {"parameters": "up_blocks*"},
    "parameters class_embedding": {"parameters": "class_embedding*"},
    "distill, focus, value_barrier together": {"retain": "distill", "timestep_focus": 0.5, "rule": "value_barrier"},
    "focus, hellinger, munba together": {"timestep_focus": 0.5, "weighting": "hellinger", "rule": "munba"},
    "Adam's own decays": {"adam_beta1": 0.9, "adam_beta2": 0.999},
    "a whole forget batch": {"forget_batch_size": 64},
    "learning_rate 1e-3": {"learning_rate": 1e-3},
    "learning_rate 2e-4, 300 steps": {"learning_rate": 2e-4, "max_train_steps": 300},
    "60 steps": {"max_train_steps": 60},
    "120 steps": {"max_train_steps": 120},
    "480 steps": {"max_train_steps": 480},
}
COLUMNS = ("forget_rate", "unconditional", "accuracy", "worst", "frechet_ratio", "forward_equivalents")


def measure(
    model: Model, judge: Judge, data: ImageData, target: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """Forget rates, retained accuracy and Frechet distance, from the same seeds for every model."""
    retained = [c for c in range(len(data.class_names)) if c != target]
    asked = torch.tensor(retained).repeat(arguments.per_class)
    common = {"seed": 0, "guidance_scale": 1.5, "num_inference_steps": 15}
    wanted = torch.full((arguments.forget,), target)
    forgotten = judge.probabilities(images(model, wanted, arguments.forget, kind="forget", **common)).argmax(1)
    free = judge.probabilities(images(model, None, arguments.forget, kind="unconditional", **common)).argmax(1)
    kept = images(model, asked, len(asked), kind="retain", **common)
    right = judge.probabilities(kept).argmax(1) == asked
    real = data.floats(((~data.held_out) & (data.labels != target)).nonzero()[:, 0][:2000])
    return {
        "forget_rate": float((forgotten == target).double().mean()),
        "unconditional": float((free == target).double().mean()),
        "accuracy": float(right.double().mean()),
        "worst": min(float(right[asked == c].double().mean()) for c in retained),
        "frechet": frechet_distance(judge.features(real), judge.features(kept)),
    }


def prepared(place: Path, data: ImageData, seed: int, arguments: argparse.Namespace) -> dict[str, Path]:
    """Base and retrained model of one seed, trained if they are not there yet."""
    architecture = Architecture(block_out_channels=tuple(arguments.block_out_channels))
    paths = {"base": place / f"base-{seed}", "retrained": place / f"retrained-{seed}"}
    for name, path in paths.items():
        if not (path / "model").exists():
            exclude = [f"class:{arguments.target}"] if name == "retrained" else []
            train(
                data,
                output_dir=path,
                exclude=exclude,
                architecture=architecture,
                seed=seed,
                max_train_steps=arguments.train_steps,
                overwrite=True,
                quiet=True,
            )
    return paths


def trial(base: Path, data: ImageData, seed: int, setting: dict[str, Any], target: int) -> tuple[Model, float]:
    """One erasure, and what it cost in forwards of one batch (seconds would be those of a shared machine)."""
    fields = dict(setting)
    method = {k: v for k, v in fields.items() if k in EraseDiff.__dataclass_fields__}
    loop = {k: v for k, v in fields.items() if k not in method}
    run = erase(
        base, f"class:{target}", data, EraseDiff(**method), seed=seed, checkpointing_steps=0, quiet=True, **loop
    )
    return run.model, float(run.record["cost"]["forward_equivalents"])


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| setting | seeds | forget rate (worst) | unconditional (worst) | accuracy | worst class "
        "| Frechet / base | cost / defaults |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    reference = [r["forward_equivalents"] for r in rows if r["setting"] == "defaults"]
    for name in dict.fromkeys(r["setting"] for r in rows):
        chosen = [r for r in rows if r["setting"] == name]
        mean = {c: sum(r[c] for r in chosen) / len(chosen) for c in COLUMNS}
        peak = {c: max(r[c] for r in chosen) for c in ("forget_rate", "unconditional")}
        cost = mean["forward_equivalents"] / reference[0] if reference else 0.0
        lines.append(
            f"| {name} | {len(chosen)} | {mean['forget_rate']:.3f} ({peak['forget_rate']:.3f}) "
            f"| {mean['unconditional']:.3f} ({peak['unconditional']:.3f}) | {mean['accuracy']:.3f} "
            f"| {min(r['worst'] for r in chosen):.2f} | {mean['frechet_ratio']:.2f} "
            f"| {f'{cost:.2f}' if cost else '-'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--target", type=int, default=7)
    parser.add_argument("--train_steps", type=int, default=700)
    parser.add_argument("--block_out_channels", type=int, nargs="*", default=[])
    parser.add_argument("--forget", type=int, default=250)
    parser.add_argument("--per_class", type=int, default=60)
    parser.add_argument("--only", nargs="*", default=[], help="settings to run, by name; all by default")
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args()
    place, data = arguments.output_dir, sources.load(arguments.data)
    if not (place / "judge").exists():
        judge_for(None, data, 0, quiet=False).save(place / "judge")
    judge = Judge.load(place / "judge")
    for seed in arguments.seeds:
        results = place / f"results-{seed}.json"  # a file a seed, so that seeds may run side by side
        rows: list[dict[str, Any]] = json.loads(results.read_text()) if results.exists() else []
        paths = prepared(place, data, seed, arguments)
        reference = measure(load_model(paths["base"])[0], judge, data, arguments.target, arguments)
        for name in ["base", "retrained", *(arguments.only or SETTINGS)]:
            if any((r["setting"], r["seed"]) == (name, seed) for r in rows):
                continue
            if name in paths:
                model, cost = load_model(paths[name])[0], 0.0
            else:
                model, cost = trial(paths["base"], data, seed, SETTINGS[name], arguments.target)
            found = measure(model, judge, data, arguments.target, arguments)
            ratio = found["frechet"] / reference["frechet"]
            rows.append({"setting": name, "seed": seed, **found, "frechet_ratio": ratio, "forward_equivalents": cost})
            write_json(results, rows)
            print(rows[-1], flush=True)
    every = [row for path in sorted(place.glob("results-*.json")) for row in json.loads(path.read_text())]
    write_atomic(place / "table.md", table(every))
    print(table(every))


if __name__ == "__main__":
    main()
