"""Peak memory and seconds a step of an erasure, with random weights of published shapes; or the estimates alone.

    python experiments/memory/measure.py --estimate
    python experiments/memory/measure.py --output memory.json            # on an accelerator
    python experiments/memory/measure.py --tiny --output tiny.json       # shrunken models, anywhere

What is in the file already is kept: a call that ran out of time (--seconds) is gone on with by the same call.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import SHAPES, model, shapes_only, table

from erasediff.data.encoded import Encoded
from erasediff.data.images import build
from erasediff.data.pairs import Pairs
from erasediff.errors import BadInput
from erasediff.families.base import encoded_shape
from erasediff.files import write_json
from erasediff.methods.base import gradient_lists
from erasediff.methods.erasediff import EraseDiff
from erasediff.provenance import versions
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import start, take_step
from erasediff.training.memory import Memory, batch_bytes, estimate
from erasediff.training.processes import Processes

GIB = 2**30
STEPS = 3  # that are timed, after one that is not
METHOD = EraseDiff(forget_target="anchor", retain="distill")
BASE = TrainingConfig(
    train_batch_size=1, mixed_precision="bf16", gradient_checkpointing=True, max_train_steps=1 + STEPS, use_ema=True
)
LORA: dict[str, Any] = {"rank": 16}
CASES: dict[str, dict[str, Any]] = {
    "lora": LORA,
    "lora, int8": {**LORA, "quantize": "int8"},
    "lora, nf4": {**LORA, "quantize": "nf4"},
    "full": {},
    "full, 8-bit adam": {"use_8bit_adam": True},
}
NEEDS_BITSANDBYTES = ("lora, nf4", "full, 8-bit adam")


def config_of(case: str, *, tiny: bool) -> TrainingConfig:
    changes = {**CASES[case]}
    if tiny and "rank" in changes:
        changes["rank"] = 2
    return replace(BASE, **changes)


def estimated(name: str, case: str, *, tiny: bool = False) -> Memory:
    """The estimate of ``erase --dry_run`` for this model; it needs no weights."""
    denoiser, config, shape = shapes_only(name, tiny=tiny), config_of(case, tiny=tiny), SHAPES[name]
    cells = denoiser.config.get("_sample_size") or denoiser.config.get("sample_size") or 128
    text = sum(rows.numel() * rows.element_size() for rows in table(name, tiny=tiny).embeddings.values())
    batch = batch_bytes((3, 8 * cells, 8 * cells), (shape.channels, cells, cells), config.train_batch_size, sides=2)
    lists, frozen = gradient_lists(METHOD), METHOD.needs.frozen
    return estimate(denoiser, config, frozen=frozen, gradient_lists=lists, batch=batch, text=text)


def pairs_of(made: Any, device: torch.device) -> Pairs:
    """Random images and latents of two classes, one of them to be forgotten."""
    channels, height, width = made.image_shape
    images = np.random.default_rng(0).integers(0, 256, (4, height, width, channels), dtype=np.uint8)
    data = build("random", images, np.arange(4) % 2, class_names=["what goes", "what stays"])
    moments = torch.randn(4, 2, *encoded_shape(made), generator=torch.Generator().manual_seed(0)).abs()
    known = Encoded(moments, torch.arange(4))
    forget, retain = torch.tensor([0, 2]), torch.tensor([1, 3])
    return Pairs(data, retain, forget, batch_size=1, seed=0, device=device, encoded=known)


def measured(name: str, case: str, *, tiny: bool = False) -> dict[str, Any]:
    """A few steps of the real loop. Peak memory is that of the steps: what loading takes is not in it."""
    processes, config = Processes.start(), config_of(case, tiny=tiny)
    device = processes.device
    # Quantised layers are made one by one, from weights that lie in the host's memory.
    made = model(name, "cpu" if config.quantize else device, tiny=tiny)
    session = start(made, METHOD, pairs_of(made, device), config, processes=processes)
    take_step(session)
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began, norms = time.perf_counter(), []
    for _ in range(STEPS):
        norms.append(take_step(session).log["grad_norm"])
    finite = all(bool(torch.isfinite(norm)) for norm in norms)  # waits for the device
    seconds = (time.perf_counter() - began) / STEPS
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return {"peak_bytes": peak, "seconds_per_step": seconds, "finite": finite}


def entry(name: str, case: str, *, tiny: bool) -> dict[str, Any]:
    """One line of the file: estimate, and what was measured or why nothing was."""
    said = estimated(name, case, tiny=tiny)
    found: dict[str, Any] = {"model": name, "case": case, "estimate": said.record()}
    if case in NEEDS_BITSANDBYTES and importlib.util.find_spec("bitsandbytes") is None:
        return {**found, "skipped": "bitsandbytes is not installed"}
    room = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    if room is not None and said.total > room:
        return {**found, "skipped": f"the estimate alone is more than the {room / GIB:.0f} GiB of this device"}
    try:
        return {**found, **measured(name, case, tiny=tiny)}
    except torch.cuda.OutOfMemoryError:
        return {**found, "skipped": "out of memory"}
    except BadInput as refused:
        return {**found, "skipped": str(refused)}


def run(output: Path, names: list[str], cases: list[str], *, tiny: bool, seconds: float) -> dict[str, Any]:
    """Everything that is asked for and not in ``output`` yet, as far as the time goes; a case is never cut off."""
    began = time.monotonic()
    result: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"tiny": tiny, "entries": []}
    if result["tiny"] != tiny:
        raise BadInput(f"{output} holds {'shrunken' if result['tiny'] else 'whole'} models; give another --output")
    result |= {"versions": versions(), "machine": machine(), "config": {"batch": 1, "precision": "bf16"}}
    there = {(e["model"], e["case"]) for e in result["entries"]}
    for name, case in ((n, c) for n in names for c in cases if (n, c) not in there):
        if time.monotonic() - began > seconds:
            break
        result["entries"].append(entry(name, case, tiny=tiny))
        write_json(output, result)
        print(json.dumps({k: v for k, v in result["entries"][-1].items() if k != "estimate"}), flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return result


def machine() -> dict[str, Any]:
    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(0), "bytes": torch.cuda.get_device_properties(0).total_memory}
    return {"device": platform.processor() or platform.machine()}


PARTS = ("denoiser", "adapters", "frozen_copy", "gradients", "optimizer", "average", "total")


def estimates(names: list[str], cases: list[str]) -> str:
    """The estimates as a table of markdown, in GiB, without activations."""
    lines = [f"| model | trained | {' | '.join(PARTS)} |", "|---|---|" + "---:|" * len(PARTS)]
    for name, case in ((n, c) for n in names for c in cases):
        said = estimated(name, case)
        lines.append(f"| {name} | {case} | {' | '.join(f'{getattr(said, part) / GIB:.2f}' for part in PARTS)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimate", action="store_true", help="print the estimates and measure nothing")
    parser.add_argument("--tiny", action="store_true", help="shrunken models")
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="MODEL")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--seconds", type=float, default=480, help="begin nothing new after these")
    parser.add_argument("--output", type=Path, default=Path("memory.json"))
    given = parser.parse_args()
    if given.estimate:
        print(estimates(given.only, given.cases))
        return
    run(given.output, given.only, given.cases, tiny=given.tiny, seconds=given.seconds)


if __name__ == "__main__":
    main()
