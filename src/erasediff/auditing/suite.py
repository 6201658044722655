"""How much an audit measures: numbers of samples, steps and budgets of each suite."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Sizes of one audit.

    ``forget``: samples conditioned on the target classes; ``per_class``: samples of each retained class;
    ``unconditional``: samples under the null condition; ``resamples``: of bootstrap intervals; ``relearn_images``: the
    k of each relearning curve.
    """

    name: str
    forget: int
    per_class: int
    unconditional: int
    num_inference_steps: int
    resamples: int
    relearn_images: tuple[int, ...]
    relearn_steps: int
    relearn_samples: int


SUITES = {
    s.name: s
    for s in (
        Suite(
            name="quick",
            forget=250,
            per_class=80,
            unconditional=400,
            num_inference_steps=12,
            resamples=50,
            relearn_images=(10,),
            relearn_steps=40,
            relearn_samples=60,
        ),
        Suite(
            name="standard",
            forget=500,
            per_class=250,
            unconditional=1000,
            num_inference_steps=20,
            resamples=200,
            relearn_images=(1, 10, 50),
            relearn_steps=100,
            relearn_samples=100,
        ),
        Suite(
            name="full",
            forget=1000,
            per_class=1000,
            unconditional=5000,
            num_inference_steps=50,
            resamples=500,
            relearn_images=(1, 5, 10, 50),
            relearn_steps=200,
            relearn_samples=200,
        ),
    )
}
