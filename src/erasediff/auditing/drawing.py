"""The samples of one subject: drawn once, judged, and shown."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erasediff.auditing.attacks.extraction import copied
from erasediff.auditing.cache import Pictures, key_of, state_fingerprint
from erasediff.auditing.finding import Evidence, Finding, rows_of
from erasediff.auditing.generate import images, in_turn, runs_of, start_noise
from erasediff.auditing.measuring import share_measurement
from erasediff.auditing.metrics.balls import NEIGHBOURS
from erasediff.auditing.metrics.classification import (
    forget_measurements,
    retain_measurements,
    unconditional_measurements,
)
from erasediff.auditing.metrics.clip_score import Scores, change_measurement, clip_scores, score_measurement
from erasediff.auditing.metrics.distribution import distribution_measurements
from erasediff.auditing.metrics.diversity import FEWEST_ROWS, diversity_measurements
from erasediff.auditing.metrics.neighbours import neighbour_measurement, neighbours
from erasediff.auditing.question import Question
from erasediff.auditing.result import Measurement
from erasediff.data.images import as_bytes
from erasediff.errors import BadInput
from erasediff.families.base import AskedInWords, Model
from erasediff.families.precision import autocast

TIMED = 32  # images, to tell the pace of this machine
SHOWN = 10  # pictures of each kind in the report
FORGET, RETAIN, UNCONDITIONAL = "forget", "retain", "unconditional"
MARGINS = {"asking": 0.05, "no condition": 0.03, "retain_accuracy": 0.03}
ALONE = 0.05  # more is drawn without a condition than a judge that errs now and then would call the target


class Subject:
    """One model of an audit, with the samples that everything is measured on; they are drawn when first needed."""

    def __init__(self, name: str, model: Model, question: Question) -> None:
        self.name, self.model, self.question = name, model, question

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that the model's answers depend on."""
        noising = self.model.noising
        scheduler = key_of(
            noising.prediction_type,
            noising.table.double().sum().item(),
            repr(self.model.conditions),
            self.model.class_names,
        )
        worded = getattr(self.model, "table", None)  # what the text encoder says of the prompts, where there is one
        said = "" if worded is None else worded.fingerprint
        # What an autoencoder makes of one image stands for its weights.
        device = next(self.model.denoiser.parameters()).device
        probe = torch.linspace(-1, 1, math.prod(self.model.image_shape)).reshape(1, *self.model.image_shape)
        with torch.no_grad():
            seen = self.model.decode(self.model.encode(probe.to(device)))
        coded = hashlib.sha256(seen.float().cpu().numpy().tobytes()).hexdigest()
        return f"{state_fingerprint(self.model.denoiser)}{scheduler}{coded}{said}"

    @property
    def retained(self) -> list[int]:
        return self.question.retained(self.model)

    @property
    def retained_labels(self) -> Tensor:
        """What each sample of the retained classes was asked for."""
        return torch.tensor(self.retained).repeat(self.question.suite.per_class)

    def counts(self) -> dict[str, int]:
        """How many samples of each kind are drawn."""
        suite, classes = self.question.suite, self.model.conditions.num_classes
        free = not classes or self.model.conditions.null_label is not None
        counts = {
            FORGET: suite.forget if self.question.classes else 0,
            RETAIN: suite.per_class * len(self.retained),
            UNCONDITIONAL: suite.unconditional if free else 0,
        }
        return {kind: count for kind, count in counts.items() if count}

    def check(self) -> None:
        """Raises BadInput where there would be too few images, drawn or real, for what is measured on them."""
        question, counts = self.question, self.counts()
        kind, named = (RETAIN, "per_class") if RETAIN in counts else (UNCONDITIONAL, "unconditional")
        count, real = counts.get(kind, 0), len(question.retain)
        each = question.suite.per_class if kind == RETAIN else count
        if count and each < FEWEST_ROWS:
            raise BadInput(f"diversity takes {FEWEST_ROWS} drawn images of a class; the suite says {named} {each}")
        if count and question.has_images and min(count, real) <= NEIGHBOURS:
            raise BadInput(
                f"distributions are compared from {NEIGHBOURS + 1} images on; there are {real} real retained ones, and "
                f"{count} are drawn ({named} of the suite); give more data, or a suite with more samples"
            )
        if question.judge is not None and FORGET in counts and len(question.forget) == 1:
            raise BadInput(
                "whether a sample looks like the target takes 2 real images of it, and there is 1; give more"
            )

    def cost(self) -> int:
        """About how many images pass through the denoiser while the samples are drawn."""
        guided = 2 if self.model.conditions.null_label is not None and self.question.guidance_scale != 1.0 else 1
        passes = {FORGET: guided, RETAIN: guided, UNCONDITIONAL: 1}
        return sum(self.question.suite.num_inference_steps * passes[k] * n for k, n in self.counts().items())

    @torch.no_grad()
    def seconds_an_image(self) -> float:
        """How long one image takes through the denoiser, here and now, in a batch of :data:`TIMED`."""
        x_T = start_noise(self.model, TIMED, seed=0, kind="timed", device=next(self.model.denoiser.parameters()).device)
        labels = torch.zeros(TIMED, dtype=torch.long, device=x_T.device)
        asked = self.model.conditions.own(labels)
        took = []
        for _ in range(3):  # the first may compile, or fetch memory
            began = time.perf_counter()
            with autocast(x_T.device, self.question.mixed_precision):
                answer = self.model.ask(self.model.denoiser, x_T, labels, asked)
            float(answer.float().sum())  # waits for the device
            took.append((time.perf_counter() - began) / TIMED)
        return min(took)

    def asked_for(self, kind: str) -> Tensor | None:
        """The class that each sample of ``kind`` is asked for [N], in turn; ``None`` for those without a condition."""
        classes, count = {FORGET: list(self.question.classes), RETAIN: self.retained}.get(kind), self.counts()[kind]
        return None if classes is None else in_turn(classes, count)

    @cached_property
    def clip_scores(self) -> dict[str, Scores]:
        """By kind, how well each sample [N] goes with its prompt; nothing without CLIP, or of a model without words."""
        clip, names = self.question.clip, self.model.class_names
        if clip is None or not isinstance(self.model, AskedInWords):
            return {}
        kinds = [kind for kind in (RETAIN, FORGET) if kind in self.counts()]
        texts = clip.texts(names) if kinds else torch.empty(0)
        asked = {kind: self.asked_for(kind) for kind in kinds}
        return {k: clip_scores(clip.images(self.samples[k]), texts, a) for k, a in asked.items() if a is not None}

    @cached_property
    def samples(self) -> dict[str, Tensor]:
        """Images [N, C, H, W] in [-1, 1] by kind; row i of a kind starts from the same noise in every model."""
        question, counts = self.question, self.counts()
        passed = self.cost() // max(1, sum(counts.values()))
        drawn = {}
        for kind, count in counts.items():
            drawn[kind] = images(
                self.model,
                self.asked_for(kind),
                count,
                kind=kind,
                seed=question.seed,
                guidance_scale=question.guidance_scale,
                num_inference_steps=question.suite.num_inference_steps,
                mixed_precision=question.mixed_precision,
                sampling_seeds=question.suite.sampling_seeds,
                on_batch=partial(_tell, question, passed),
            )
        return drawn

    def pictures(self, *, show_forgotten: bool) -> Pictures:
        """The first of each kind; copies of forgotten samples are left out unless asked for."""
        shown = {}
        for kind, drawn in self.samples.items():
            kept = drawn
            if not self.question.classes and not show_forgotten:
                data = self.question.data
                forgotten, others = data.floats(self.question.distinct), data.floats(self.question.retain)
                kept = drawn[copied(drawn, forgotten, others) < 0]
            shown[kind] = _uint8(kept[:SHOWN])
        return shown


def judged(subject: Subject) -> list[Finding]:
    """What the judge sees in the samples, and how close their distribution is to that of the retain set."""
    question, found = subject.question, list[Finding]()
    if question.judge is not None and question.classes:
        found += _forgotten(subject)
    if question.judge is not None and RETAIN in subject.samples:
        found += _kept(subject)
    drawn = subject.samples.get(RETAIN, subject.samples.get(UNCONDITIONAL))
    if drawn is not None:
        found += _distribution(subject, drawn)
    return found


def scored(subject: Subject, base: Subject | None) -> list[Finding]:
    """How well the samples go with their prompts by CLIP, and how much less or more than the base model's."""
    question, found = subject.question, list[Measurement]()
    common: dict[str, Any] = {"subject": subject.name, "seed": question.seed}
    common["detail"] = {} if question.clip is None else {"clip": question.clip.title}
    for kind, scores in subject.clip_scores.items():
        found.append(score_measurement(scores, kind, **common))
        if base is not None:
            found.append(change_measurement(base.clip_scores[kind], scores, kind, **common))
    return [Finding(m) for m in found]


def _forgotten(subject: Subject) -> list[Finding]:
    question, found = subject.question, list[Finding]()
    common = {"subject": subject.name, "seed": question.seed}
    if FORGET in subject.samples:
        drawn = subject.samples[FORGET]
        probabilities = question.judge.probabilities(drawn)  # type: ignore[union-attr]
        rate, *rest = forget_measurements(probabilities, question.classes, **common)  # type: ignore[arg-type]
        called = question.is_target(probabilities)
        found += [Finding(_by_seed(rate, called, question)), *(Finding(m) for m in rest)]
        if question.has_images:
            found.append(_faithful(subject, drawn, called))
    if UNCONDITIONAL in subject.samples:
        probabilities = question.judge.probabilities(subject.samples[UNCONDITIONAL])  # type: ignore[union-attr]
        rate, *rest = unconditional_measurements(probabilities, question.classes, **common)  # type: ignore[arg-type]
        # What the judge calls the target is enough here: nobody searched for these images.
        margin, called = MARGINS["no condition"], question.is_target(probabilities)
        evidence = Evidence(attack="no condition", role="access", rows=rows_of(called), margin=margin, alone=ALONE)
        found += [Finding(_by_seed(rate, called, question), evidence), *(Finding(m) for m in rest)]
    return found


def _faithful(subject: Subject, drawn: Tensor, called: NDArray[np.bool_]) -> Finding:
    """How many samples of the target are called it and look like it."""
    question = subject.question
    shows = question.shows_target(drawn, called)
    detail = {"fidelity": f"near a real image of the target, features {question.space}, k = 5"}
    measured = share_measurement("forget_rate_faithful", FORGET, subject.name, shows, detail=detail)
    evidence = Evidence(attack="asking", role="asking", rows=rows_of(shows), margin=MARGINS["asking"])
    return Finding(_by_seed(measured, shows, question), evidence)


def _kept(subject: Subject) -> list[Finding]:
    question, drawn = subject.question, subject.samples[RETAIN]
    asked = subject.retained_labels
    probabilities = question.judge.probabilities(drawn)  # type: ignore[union-attr]
    names = question.data.class_names
    accuracy, worst = retain_measurements(probabilities, asked, subject=subject.name, class_names=names)
    right = (probabilities.argmax(1) == asked).numpy()
    margin = MARGINS["retain_accuracy"]
    evidence = Evidence(attack="retained classes", role="retention", rows=rows_of(right), margin=margin, hidden=True)
    found = [Finding(_by_seed(accuracy, right, question), evidence), Finding(worst)]
    if question.classes and question.data.labels is not None:
        kept = torch.cat([question.forget, question.retain])
        features = torch.cat([question.real_forget, question.real_retain])
        labels = question.data.labels[kept]
        # A class may have held-out images only, as where each image has a caption of its own.
        shown = [c for c in question.classes if bool((labels == c).any())]
        told = bool(shown) and not bool(torch.isin(labels, torch.tensor(shown)).all())
        classes = neighbours(features, labels, shown) if told else ()
        near = tuple(c for c in classes if c in subject.retained)
        if near:
            measured = neighbour_measurement(probabilities, asked, near, subject=subject.name, class_names=names)
            found.append(Finding(measured))
    return found


def _distribution(subject: Subject, drawn: Tensor) -> list[Finding]:
    question = subject.question
    features = question.extract(drawn)
    common: dict[str, Any] = {"subject": subject.name, "seed": question.seed}
    labels = subject.retained_labels if RETAIN in subject.samples else None
    found = diversity_measurements(features, labels, **common)
    if question.has_images:
        common |= {"features": question.space, "resamples": question.suite.resamples}
        found = [*distribution_measurements(question.real_retain, features, **common), *found]
    return [Finding(m) for m in found]


def _by_seed(share: Measurement, hits: NDArray[np.bool_], question: Question) -> Measurement:
    """The share with what each sampling seed gave on its own, where there are several."""
    runs = runs_of(len(hits), question.suite.sampling_seeds)
    if len(runs) < 2:
        return share
    return replace(share, detail={**share.detail, "by_seed": [float(hits[rows].mean()) for rows in runs]})


def _tell(question: Question, passes: int, images: int) -> None:
    question.tick(images * passes)


def _uint8(drawn: Tensor) -> NDArray[np.uint8]:
    return np.asarray(as_bytes(drawn).permute(0, 2, 3, 1).numpy())
