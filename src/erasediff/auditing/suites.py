"""The three suites: quick (a first look), standard (what a verdict should rest on), full (all of it, many samples)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from erasediff.auditing.attacks import ATTACKS
from erasediff.auditing.attacks.class_embedding import ClassEmbedding
from erasediff.auditing.attacks.extraction import Extraction
from erasediff.auditing.attacks.gradient_membership import GradientMembership
from erasediff.auditing.attacks.guidance import Guidance
from erasediff.auditing.attacks.image_to_image import ImageToImage
from erasediff.auditing.attacks.inversion import Inversion
from erasediff.auditing.attacks.membership import Membership
from erasediff.auditing.attacks.prompt_debugging import PromptDebugging
from erasediff.auditing.attacks.prompt_mining import PromptMining
from erasediff.auditing.attacks.pruning import Pruning
from erasediff.auditing.attacks.quantisation import Quantisation
from erasediff.auditing.attacks.relearning import Relearning
from erasediff.auditing.attacks.retain_training import RetainTraining
from erasediff.auditing.attacks.text_embedding import TextEmbedding
from erasediff.auditing.attacks.token_search import TokenSearch
from erasediff.auditing.attacks.weight_difference import WeightDifference
from erasediff.auditing.suite import Suite
from erasediff.errors import check_one_of

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
            sampling_seeds=2,
            attacks=(
                Extraction(),
                Membership(),
                ClassEmbedding(starts=2, steps=60, samples=100),
                TextEmbedding(starts=2, steps=60, samples=100),
                Relearning(images=(10,), steps=40, samples=60),
                Quantisation(bits=(4,), samples=100),
            ),
        ),
        Suite(
            name="standard",
            forget=500,
            per_class=250,
            unconditional=1000,
            num_inference_steps=20,
            resamples=200,
            sampling_seeds=3,
            attacks=(
                Extraction(),
                Membership(),
                ClassEmbedding(),
                TextEmbedding(),
                TokenSearch(),
                Guidance(),
                ImageToImage(),
                Relearning(),
                RetainTraining(),
                Quantisation(),
                Pruning(),
            ),
        ),
        Suite(
            name="full",
            forget=1000,
            per_class=1000,
            unconditional=5000,
            num_inference_steps=50,
            resamples=500,
            sampling_seeds=5,
            attacks=(
                Extraction(samples=5000),
                Membership(images=2000),
                GradientMembership(images=500),
                WeightDifference(),
                ClassEmbedding(starts=3, steps=300, samples=500),
                TextEmbedding(tokens=4, steps=300, samples=500),
                TokenSearch(steps=100, candidates=24, samples=500),
                PromptDebugging(samples=500),
                PromptMining(samples=500),
                Guidance(samples=300),
                ImageToImage(images=500),
                Inversion(images=32, iterations=60),
                Relearning(images=(1, 5, 10, 50), steps=200, samples=200, repeats=3),
                RetainTraining(steps=300, samples=500),
                Quantisation(samples=500),
                Pruning(samples=500),
            ),
        ),
    )
}


def with_attacks(suite: Suite, names: Sequence[str]) -> Suite:
    """The suite with these attacks (or ``none``) instead of its own; its budgets where it has them, else the defaults.

    Raises BadInput for a name that is not in ``erasediff list attacks``.
    """
    for name in names:
        check_one_of("attack", name, [*ATTACKS, "none"])
    budgeted = {a.name: a for a in suite.attacks}
    wanted = [name for name in dict.fromkeys(names) if name != "none"]
    return replace(suite, attacks=tuple(budgeted.get(name) or ATTACKS[name]() for name in wanted))
