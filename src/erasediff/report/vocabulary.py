"""The words of the report: what a measure is called, what it means, which subject is which."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

AGAINST = "against retrained"
"""The group of differences between the erased model and the retrained one: they have a section of their own."""

GROUPS = {
    "forget": "Forgetting",
    "retain": "What it kept",
    "adversarial": "Attacks: the target asked for with more force",
    "relearning": "Relearning",
    "membership": "Membership: are the forgotten images known?",
    "inversion": "Rebuilding forgotten images",
    "extraction": "Copies of the forgotten samples",
    "drift": "Distance to the base model",
    AGAINST: "Against the retrained model",
}
"""Titles of groups, in the order of the report; groups that are not named here follow."""

SUBJECTS = {
    "base": ("base", "the model before erasing"),
    "erased": ("erased", "the model after erasing: the one that is judged"),
    "retrained": ("retrained", "the oracle: trained from scratch, never saw the target"),
    "control": ("control", "the base model fine-tuned on the retain set only: what training alone changes"),
}
"""Name -> title and meaning, in the order of columns: before, after, then the two to compare with."""


@dataclass(frozen=True)
class Measure:
    """How one measure is shown. ``share``: it lives in [0, 1] and may stand on a common axis."""

    title: str
    explanation: str
    group: str
    share: bool = False


MEASURES = {
    "forget_rate": Measure(
        "Forget rate", "share of samples asked for the target that the judge calls the target", "forget", True
    ),
    "forget_probability": Measure(
        "Forget probability", "mean probability the judge gives the target on those samples", "forget", True
    ),
    "forget_rate_faithful": Measure(
        "Shows the target when asked",
        "share of those samples that the judge calls the target and that lie near a real image of it; "
        "the verdict rests on this one",
        "forget",
        True,
    ),
    "forget_rate_unconditional": Measure(
        "Forget rate, unconditional", "share of samples drawn without a condition that are the target", "forget", True
    ),
    "forget_entropy": Measure(
        "Entropy when asked", "how unsure the judge is of those samples, in nats: high means noise", "forget"
    ),
    "clip_score_target": Measure(
        "CLIP score, target's prompts",
        "100 times the cosine of image and prompt, by CLIP; expected to fall, and neither good nor bad by itself",
        "forget",
    ),
    "nudity_rate": Measure(
        "Nudity by NudeNet",
        "share of images drawn without a condition in which an exposed part is found",
        "forget",
        True,
    ),
    "safety_checker_rate": Measure(
        "Flagged by the safety checker",
        "share of the same images that the pipeline's own checker would black out: a second opinion",
        "forget",
        True,
    ),
    "retain_accuracy": Measure(
        "Retain accuracy", "share of samples of the other classes that are what was asked for", "retain", True
    ),
    "retain_accuracy_worst": Measure(
        "Retain accuracy, worst class", "the same for the class that came out worst", "retain", True
    ),
    "retain_accuracy_neighbours": Measure(
        "Retain accuracy, neighbours", "the same for the classes most like the target", "retain", True
    ),
    "clip_score": Measure(
        "CLIP score", "100 times the cosine of image and prompt, by CLIP, of what was to stay", "retain"
    ),
    "frechet_distance": Measure(
        "Fréchet distance", "to real retained images, in the features named below: quality and variety", "retain"
    ),
    "kernel_distance": Measure("Kernel distance", "the same question, unbiased at small sample sizes", "retain"),
    "precision": Measure("Precision", "share of samples that lie near a real image: quality", "retain", True),
    "recall": Measure("Recall", "share of real images that lie near a sample: variety", "retain", True),
    "density": Measure("Density", "how densely samples sit among real images (may exceed 1)", "retain"),
    "coverage": Measure("Coverage", "share of real images with a sample in their neighbourhood", "retain", True),
    "vendi_score": Measure(
        "Vendi score", "effective number of different images within a class: falls where all look alike", "retain"
    ),
    "pair_distance": Measure(
        "Pair distance", "mean distance of two images of one class, in the same features", "retain"
    ),
    "class_entropy_unconditional": Measure(
        "Class entropy, unconditional", "variety of the classes drawn without a condition, in nats", "retain"
    ),
    "regeneration_rate": Measure(
        "Copies drawn", "share of drawn images that are copies of forgotten samples", "extraction", True
    ),
    "regenerated_samples": Measure(
        "Forgotten samples drawn", "share of the forgotten samples that were drawn at least once", "extraction", True
    ),
    "parameter_change": Measure("Parameter change", "relative change of all weights against the base model", "drift"),
    "image_change_retain": Measure(
        "Image change, retained", "mean change of retained images drawn from the same seeds", "drift"
    ),
    "image_change_forget": Measure(
        "Image change, target", "mean change of the target's images drawn from the same seeds", "drift"
    ),
    "clip_score_change": Measure(
        "CLIP score against base", "mean difference of the two models' CLIP scores from the same seeds", "drift"
    ),
    "clip_score_target_change": Measure(
        "CLIP score against base, target's prompts", "the same for what was to be forgotten", "drift"
    ),
}
"""Known measures in the order of the report."""

_LARGEST = Measure("{}, largest gap", "the largest difference from the retrained model among several", AGAINST)
_ASKED = "share of samples that show the target, asked "
PATTERNS = {
    r"(relearn|mia)_auc_gap": _LARGEST,
    r"(\w+)_gap": Measure("{}, gap", "erased minus retrained", AGAINST),
    r"relearn_k(\d+)": Measure(
        "Return after relearning, k = {}",
        "target's share while fine-tuning on k forgotten images, mean of the curve",
        "relearning",
        True,
    ),
    r"relearn_(\w+)": Measure(
        "Return after relearning, {}", "target's share while fine-tuning, mean of the curve", "relearning", True
    ),
    r"mia_auc_(\w+)": Measure(
        "Membership by {}", "area under the curve; 0.5 is chance; compare with retrained", "membership", True
    ),
    r"mia_tpr_at_1fpr_(\w+)": Measure(
        "Membership by {}, caught", "forgotten images caught while 1 % of others are accused", "membership", True
    ),
    r"attack_success_(class_embedding)": Measure(
        "Class embedding fitted", _ASKED + "with an embedding fitted to forgotten images", "adversarial", True
    ),
    r"attack_success_(text_embedding)": Measure(
        "Pseudo-words fitted", _ASKED + "with pseudo-words fitted to forgotten images", "adversarial", True
    ),
    r"attack_success_(token_search)": Measure(
        "Tokens in front of the prompt", _ASKED + "with adversarial tokens in front of its prompt", "adversarial", True
    ),
    r"attack_success_(prompt_debugging)": Measure(
        "Prompt answered as before", _ASKED + "as the base model would be answered", "adversarial", True
    ),
    r"attack_success_(prompt_mining)": Measure(
        "Prompt along the concept", _ASKED + "with a prompt mined from the text encoder alone", "adversarial", True
    ),
    r"attack_success_(guidance)": Measure(
        "Guidance at its strongest", _ASKED + "at the guidance scale that shows it most", "adversarial", True
    ),
    r"attack_success_(image_to_image)": Measure(
        "Started from forgotten images",
        "share of noised forgotten images that are restored as the target",
        "adversarial",
        True,
    ),
    r"attack_success_(retain_training)": Measure(
        "Trained on with what stays", _ASKED + "after fine-tuning on the retain set alone", "adversarial", True
    ),
    r"attack_success_quantised_(\d+)bit": Measure(
        "Weights rounded to {} bit", _ASKED + "of the rounded model", "adversarial", True
    ),
    r"attack_success_pruned_(\d+)": Measure(
        "Smallest {} % of the weights removed", _ASKED + "of the pruned model", "adversarial", True
    ),
    r"attack_success_(\w+)": Measure("Attack, {}", "share of tries that brought the target back", "adversarial", True),
    r"inversion_(auc)": Measure(
        "Rebuilt better than held-out images",
        "area under the curve of the reconstruction's quality; 0.5 is chance",
        "inversion",
        True,
    ),
    r"inversion_(psnr)": Measure("Quality of rebuilt images", "peak signal-to-noise ratio in dB", "inversion"),
}
"""Families of measures; the title takes what the pattern found. The first that fits counts."""

NAMES = {
    "pia": "PIA",
    "secmi": "SecMI",
    "sima": "SimA",
    "relearn": "Relearning",
    "mia": "Membership",
}
"""Instruments whose names are not read as words."""

ATTACKS = {
    "asking": "Asked in the ordinary way",
    "no condition": "Asked for nothing",
    "gradient_membership (gradient_norm)": "Gradient membership",
    "weight_difference (weight_difference)": "Weight difference",
}
"""Titles of attacks whose names would say too little, or the same twice."""


def measure(name: str, group: str) -> Measure:
    """How the measure ``name`` is shown; one that nobody described gets its name in words and its own ``group``."""
    if name in MEASURES:
        return MEASURES[name]
    for pattern, family in PATTERNS.items():
        if found := re.fullmatch(pattern, name):
            inner = measure(found[1], "").title if family.title == "{}, gap" else _named(found[1])
            return replace(family, title=family.title.format(inner))
    return Measure(_words(name).capitalize() or "(no name)", "", group or "other")


def attack_title(attack: str) -> str:
    """``membership (pia)`` -> ``Membership (PIA)``; ``class_embedding`` -> ``Class embedding``."""
    if attack in ATTACKS:
        return ATTACKS[attack]
    name, bracket, detail = attack.partition(" (")
    title = _words(name)
    inside = detail.removesuffix(")")
    return f"{title[:1].upper()}{title[1:]}" + (f" ({_named(inside)})" if bracket else "")


def group_title(group: str) -> str:
    """The heading of a group."""
    return GROUPS.get(group, _words(group).capitalize() or "Other")


def sorting_key(name: str, group: str) -> tuple[int, str, int, list[tuple[int, str]]]:
    """Groups in their order, known measures in theirs, then by name with numbers as numbers (k1, k5, k10)."""
    groups, known = list(GROUPS), list(MEASURES)
    shown = measure(name, group).group
    parts = [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]
    return (
        groups.index(shown) if shown in groups else len(groups),
        shown,
        known.index(name) if name in known else len(known),
        parts,
    )


def ordered_subjects(names: Iterable[str]) -> list[str]:
    """The subjects that are there: known ones in the order of columns, others behind."""
    there = list(dict.fromkeys(names))
    return [s for s in SUBJECTS if s in there] + [s for s in there if s not in SUBJECTS]


def subject_class(name: str) -> str:
    """The CSS class that carries a subject's colour and mark; safe whatever the subject is called."""
    return f"s-{name}" if name in SUBJECTS else "s-other"


def target_phrase(target: str) -> str:
    """``class:7, concept:Van Gogh`` -> ``class 7 and the concept “Van Gogh”``."""
    parts = [_phrase(part) for part in target_parts(target)]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def target_parts(target: str) -> list[str]:
    """``class:7, concept:Van Gogh, late`` -> ``["class:7", "concept:Van Gogh, late"]``."""
    return re.split(r",\s*(?=(?:class|samples|concept):)", target.strip())


def _phrase(target: str) -> str:
    kind, colon, rest = target.partition(":")
    if not colon or not rest:
        return target or "the target"
    phrases = {"class": f"class {rest}", "concept": f"the concept “{rest}”", "samples": f"the samples in {rest}"}
    return phrases.get(kind, target)


def _named(name: str) -> str:
    return NAMES.get(name, _words(name))


def _words(name: str) -> str:
    return re.sub(r"[_\s]+", " ", name).strip()
