"""The stage `table`: our numbers beside the paper's, in markdown, and what may not be compared between the two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import SEED, judge_of, subjects
from setting import Setting
from stages import GROUPS, jobs, status

from erasediff.errors import BadInput
from erasediff.files import read_json, write_atomic

COLUMNS = {
    "forget_probability": "P(target)",
    "forget_rate": "called target",
    "forget_rate_unconditional": "called target, no condition",
    "retain_accuracy": "accuracy, others",
    "retain_accuracy_worst": "worst other",
    "frechet_distance": "Frechet",
    "precision": "precision",
    "recall": "recall",
}
PAPER = (  # arXiv:2401.05779, CIFAR-10, airplane forgotten: FID, precision, recall, P(airplane)
    ("before", "9.63", ".40", ".79", ".97"),
    ("fine-tuned on the retain set", "8.21", ".43", ".77", ".96"),
    ("NegGrad", "76.7", ".08", ".61", ".61"),
    ("Selective Amnesia", "8.19", ".43", ".75", ".06"),
    ("SalUn", "9.16", ".41", ".76", ".07"),
    ("EraseDiff, noise target", "7.61", ".43", ".72", ".22"),
    ("EraseDiff, relabel target", "8.66", ".43", ".77", ".24"),
)


def write(setting: Setting) -> Path:
    """Write table.md from what was audited so far."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, place in subjects(setting).items():
        path = setting.place / "audits" / f"{name}.json"
        if path.exists():
            label = place.name if place.parent == setting.place else place.parent.name
            found.setdefault(label, []).append(read_json(path))
    if not found:
        raise BadInput(f"stage table needs audits, and {setting.place} has none; run --stage audit first")
    path = setting.place / "table.md"
    write_atomic(path, "\n".join([*_ours(setting, found), "", *_papers(), ""]))
    return path


def _ours(setting: Setting, found: dict[str, list[dict[str, Any]]]) -> list[str]:
    judge, sizes = judge_of(setting), setting.sizes
    classes = len(setting.data.class_names) - len(setting.forgotten)
    network = "a shrunken network on a few images: it shows that the stages work, and nothing else"
    return [
        f"# {setting.target} forgotten",
        "",
        "## This library" + (f" ({network})" if setting.shrunken else ""),
        "",
        f"| model | seeds | {' | '.join(COLUMNS.values())} | seconds | forward equivalents |",
        f"|---|---:|{'---:|' * (len(COLUMNS) + 2)}",
        *[_row(label, records) for label, records in found.items()],
        *[f"| {label}, seed {seed} | diverged |{' - |' * (len(COLUMNS) + 2)}" for label, seed in _diverged(setting)],
        "",
        "A cell is the mean over seeds and, in brackets, the lowest and the highest end of the 95 % intervals of "
        f"single seeds. The base was trained for {sizes.train_steps:,} steps. "
        f"Samples: {sizes.forget} of the target, {sizes.per_class} of each of {classes} other classes, "
        f"{sizes.unconditional} without a condition; DPM-Solver++ in {sizes.num_inference_steps} steps, guidance "
        f"{sizes.guidance_scale:g}, noise seed {SEED}. Judge: {judge.name}, right on {judge.held_out_accuracy:.1%} of "
        f"{judge.held_out_n} held-out images. Frechet distance, precision and recall: features of that judge, "
        "at most 10,000 drawn against 10,000 training images of the other classes. Seconds and forward equivalents: "
        'of the erasure, its preparation included; "-" where a part of them is not known.',
    ]


def _papers() -> list[str]:
    return [
        "## The paper's table (arXiv:2401.05779)",
        "",
        "| model | FID | precision | recall | P(airplane) |",
        "|---|---:|---:|---:|---:|",
        *[f"| {' | '.join(row)} |" for row in PAPER],
        "",
        "**The two tables are not comparable.** FID, precision and recall there are of ADM's Inception features, with "
        "5,000 images of each retained class, 1,000 DDPM steps and guidance 2; ours are of our classifier's features. "
        "P(airplane) there is a ResNet-34's on 500 images, of a model trained for longer: comparable in kind only. "
        "Within one table rows may be compared.",
    ]


def _row(label: str, records: Sequence[dict[str, Any]]) -> str:
    cells = [_cell([m for r in records for m in r["measurements"] if m["name"] == name]) for name in COLUMNS]
    costs = [_mean([r["cost"].get(k) for r in records]) for k in ("seconds", "forward_equivalents")]
    return f"| {label} | {len(records)} | {' | '.join([*cells, *costs])} |"


def _cell(measured: Sequence[dict[str, Any]]) -> str:
    if not measured:
        return "-"
    mean = sum(m["value"] for m in measured) / len(measured)
    bounds = [(m["low"], m["high"]) for m in measured if m["low"] is not None and m["high"] is not None]
    if len(bounds) < len(measured):
        return f"{mean:.3f}"
    return f"{mean:.3f} [{min(b[0] for b in bounds):.3f}, {max(b[1] for b in bounds):.3f}]"


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{sum(known) / len(known):,.0f}" if known and len(known) == len(values) else "-"


def _diverged(setting: Setting) -> list[tuple[str, int]]:
    every = [(place, job) for group in GROUPS for place, (job, _) in jobs(setting, group).items()]
    return [(job.label, job.seed) for place, job in every if status(place) == "diverged"]


def summary(setting: Setting) -> str:
    """The line that the last piece ends with."""
    return f"{len(subjects(setting))} models are there; the table is {setting.place / 'table.md'}"
