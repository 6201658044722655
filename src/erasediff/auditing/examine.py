"""One audit: every subject asked the same things from the same seeds, and judged by the same instruments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erasediff.auditing.attacks.extraction import extraction_measurements
from erasediff.auditing.attacks.membership import denoising_losses, membership_measurements
from erasediff.auditing.attacks.relearning import relearn
from erasediff.auditing.classifier import Judge
from erasediff.auditing.features import extractor
from erasediff.auditing.generate import images
from erasediff.auditing.metrics.classification import (
    forget_measurements,
    retain_measurements,
    unconditional_measurements,
)
from erasediff.auditing.metrics.distribution import distribution_measurements
from erasediff.auditing.metrics.drift import image_change, parameter_change
from erasediff.auditing.result import ERASED, AuditResult, Measurement, Verdict
from erasediff.auditing.suite import Suite
from erasediff.data.sources import ImageData
from erasediff.families.base import Model

SHOWN = 10  # pictures of each kind in the report
OF_SAMPLES_ONLY = ("membership inference", "extraction")
NOT_YET = (
    ("membership inference", "this version attacks targets of samples only"),
    ("extraction", "this version attacks targets of samples only"),
    ("inversion", "not part of this version's suites"),
    ("adversarial conditions", "not part of this version's suites"),
    ("quantisation and pruning", "not part of this version's suites"),
)

Pictures = dict[str, dict[str, NDArray[np.uint8]]]
Samples = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every subject alike. ``forget``: data indices; ``classes``: those that were to be forgotten.

    ``gone``: classes that had been forgotten before: neither asked about nor judged as retained.
    """

    target: str
    goal: str
    data: ImageData
    forget: Tensor
    retain: Tensor
    classes: tuple[int, ...]
    judge: Judge | None
    features: str
    suite: Suite
    guidance_scale: float
    seed: int
    gone: tuple[int, ...] = ()
    say: Callable[[str], None] = lambda text: None
    tick: Callable[[int], object] = lambda count: None


def examine(subjects: Mapping[str, Model], question: Question) -> tuple[AuditResult, Pictures]:
    """Measure each subject (``erased`` first) and state what can be said of the erased one."""
    found: list[Measurement] = []
    drawn: dict[str, Samples] = {}
    real = extractor(question.features, question.judge)(question.data.floats(question.retain))
    for name, model in subjects.items():
        question.say(f"{name}: drawing and judging samples")
        drawn[name] = _draw(model, question)
        found += _judged(name, model, drawn[name], real, question)
        if not question.classes:
            found += _traced(name, model, drawn[name], question)
    if "base" in subjects:
        base = subjects["base"].denoiser.state_dict()
        for name in (n for n in subjects if n not in ("base", "retrained")):
            found += parameter_change(base, subjects[name].denoiser.state_dict(), subject=name)
            for kind in ("forget", "retain"):
                if kind in drawn[name]:
                    before, after = drawn["base"][kind], drawn[name][kind]
                    found += image_change(before, after, kind, subject=name, seed=question.seed)
    # The base and the control never forgot: how fast they relearn says nothing.
    for name in (n for n in subjects if n in (ERASED, "retrained")):
        found += _relearned(name, subjects[name], question)
    result = AuditResult(
        target=question.target,
        measurements=found,
        verdict=_verdict(subjects, question),
        setting=_setting(question),
    )
    return result, {name: _pictures(samples) for name, samples in drawn.items()}


def planned_samples(subjects: Mapping[str, Model], question: Question) -> int:
    """How many samples :func:`examine` will draw to be judged: the length of its progress bar."""
    suite, total = question.suite, 0
    for model in subjects.values():
        classes = model.conditions.num_classes
        total += suite.forget if question.classes else 0
        total += suite.per_class * len(_retained(model, question))
        total += suite.unconditional if not classes or model.conditions.null_label is not None else 0
    return total


def _draw(model: Model, question: Question) -> Samples:
    suite, samples = question.suite, {}
    common = {
        "seed": question.seed,
        "guidance_scale": question.guidance_scale,
        "num_inference_steps": suite.num_inference_steps,
        "on_batch": question.tick,
    }
    retained = _retained(model, question)
    if question.classes:
        labels = torch.tensor(question.classes).repeat(-(-suite.forget // len(question.classes)))[: suite.forget]
        samples["forget"] = images(model, labels, suite.forget, kind="forget", **common)  # type: ignore[arg-type]
    if retained:
        labels = torch.tensor(retained).repeat(suite.per_class)
        samples["retain"] = images(model, labels, len(labels), kind="retain", **common)  # type: ignore[arg-type]
    if not model.conditions.num_classes or model.conditions.null_label is not None:
        count = suite.unconditional
        samples["unconditional"] = images(model, None, count, kind="unconditional", **common)  # type: ignore[arg-type]
    return samples


def _judged(name: str, model: Model, samples: Samples, real: Tensor, question: Question) -> list[Measurement]:
    judge, seed, found = question.judge, question.seed, []
    if judge is not None and "forget" in samples:
        found += forget_measurements(judge.probabilities(samples["forget"]), question.classes, subject=name, seed=seed)
    if judge is not None and "unconditional" in samples and question.classes:
        probabilities = judge.probabilities(samples["unconditional"])
        found += unconditional_measurements(probabilities, question.classes, subject=name, seed=seed)
    if judge is not None and "retain" in samples:
        asked = torch.tensor(_retained(model, question)).repeat(question.suite.per_class)
        found += retain_measurements(
            judge.probabilities(samples["retain"]), asked, subject=name, class_names=question.data.class_names
        )
    drawn = samples.get("retain", samples.get("unconditional"))
    if drawn is not None:
        found += distribution_measurements(
            real,
            extractor(question.features, judge)(drawn),
            subject=name,
            seed=seed,
            features=question.features,
            resamples=question.suite.resamples,
        )
    return found


def _traced(name: str, model: Model, samples: Samples, question: Question) -> list[Measurement]:
    """Traces of single samples: copies of them among what is drawn, and a denoising loss lower than that of others."""
    data, suite = question.data, question.suite
    found = extraction_measurements(
        torch.cat(list(samples.values())), data.floats(question.forget), data.floats(question.retain), subject=name
    )
    # One row for each distinct image; and a held-out copy of a forgotten image was trained on all the same.
    distinct = {data.images[i].numpy().tobytes(): i for i in question.forget.tolist()}
    others = [i for i in data.held_out.nonzero()[:, 0].tolist() if data.images[i].numpy().tobytes() not in distinct]
    losses = [
        denoising_losses(
            model, data.floats(rows), None if data.labels is None else data.labels[rows], seed=question.seed
        )
        for rows in (torch.tensor(list(distinct.values())), torch.tensor(others))
    ]
    return found + membership_measurements(*losses, subject=name, seed=question.seed, resamples=suite.resamples)


def _retained(model: Model, question: Question) -> list[int]:
    """The classes of the data that are asked for and judged as retained; none of an unconditional model."""
    if not model.conditions.num_classes:
        return []
    return [c for c in range(len(question.data.class_names)) if c not in {*question.classes, *question.gone}]


def _relearned(name: str, model: Model, question: Question) -> list[Measurement]:
    judge, suite = question.judge, question.suite
    if judge is None or not question.classes:
        return []
    found = []
    for count in suite.relearn_images:
        question.say(f"{name}: relearning from {count} forgotten image{'s' if count > 1 else ''}")
        found.append(
            relearn(
                model,
                question.data,
                question.forget,
                lambda drawn: float(
                    torch.isin(judge.probabilities(drawn).argmax(1), torch.tensor(question.classes)).double().mean()
                ),
                subject=name,
                images_used=count,
                steps=suite.relearn_steps,
                samples=suite.relearn_samples,
                classes=question.classes,
                seed=question.seed,
                guidance_scale=question.guidance_scale,
                num_inference_steps=suite.num_inference_steps,
            )
        )
    return found


def _verdict(subjects: Mapping[str, Model], question: Question) -> Verdict:
    because = ["this version measures, but does not yet attack enough to reach a verdict"]
    if "base" not in subjects:
        because.append("no base model was given to compare with")
    if "retrained" not in subjects:
        because.append("no retrained model was given to compare with")
    if question.judge is not None and question.judge.held_out_accuracy < 0.9:
        because.append(f"the judge is right on only {question.judge.held_out_accuracy:.0%} of held-out images")
    if not question.classes:
        because.append("the target is no class: no classifier can tell its samples")
    return Verdict(
        goal=question.goal,
        level="no_verdict",
        because=because,
        not_tested=[
            {"what": what, "why": why} for what, why in NOT_YET if question.classes or what not in OF_SAMPLES_ONLY
        ],
    )


def _setting(question: Question) -> dict[str, object]:
    judge = question.judge
    return {
        "suite": asdict(question.suite),
        "guidance_scale": question.guidance_scale,
        "seed": question.seed,
        "sampler": "DPM-Solver++ (multistep, order 2) on the model's own noise schedule",
        "features": question.features,
        "classifier": None
        if judge is None
        else {"name": judge.name, "held_out_accuracy": judge.held_out_accuracy, "held_out_n": judge.held_out_n},
        "data": {"spec": question.data.spec, "sha256": question.data.fingerprint()},
    }


def _pictures(samples: Samples) -> dict[str, NDArray[np.uint8]]:
    return {kind: _uint8(drawn[:SHOWN]) for kind, drawn in samples.items()}


def _uint8(drawn: Tensor) -> NDArray[np.uint8]:
    scaled = ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(scaled.permute(0, 2, 3, 1).numpy())
