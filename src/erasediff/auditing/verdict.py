"""The verdict: which of five things can be said of the erased model, and on what it rests.

Asked in the ordinary way, does it draw the target? Then it is *not erased*. Did an attack bring the target back without
new data of it, or does it draw the target more often than a retrained model when asked, though below the line? Then the
erasure is *superficial*. Was every difference that equality requires shown to be smaller than its margin? Then it is
*indistinguishable from retrained*, on these measures. Otherwise the target is *suppressed*: it was not brought back,
and that nothing is left of it was not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from erasediff.auditing.comparison import EQUAL, LOWER, UNCLEAR, WORSE, Comparison
from erasediff.auditing.finding import Finding
from erasediff.auditing.question import Question
from erasediff.auditing.result import Verdict
from erasediff.errors import listing

LEAST_ACCURATE = 0.9  # a judge that errs more often is no instrument
CHANCE = 0.05  # the least that counts as the share of the target when nothing is asked for
NEEDED = ("asking", "membership", "relearning")
"""Without these and a search no model is called indistinguishable; for samples, those that apply to samples."""
SEARCHES = {"classes": "class_embedding", "words": "text_embedding"}
"""The search that a model must have stood, by how it is asked."""
SAID = {"no condition": "asking without a condition", "asking": "asking"}
NEEDED_OF_SAMPLES = ("extraction", "membership")

Findings = Mapping[str, Finding]


@dataclass(frozen=True, kw_only=True)
class Case:
    """All that was found, for :func:`conclude`. ``untested``: what, why. ``findings``: by subject, then by name.

    ``asked_in``: ``classes`` or ``words``, how the models are asked.
    """

    question: Question
    findings: Mapping[str, Findings]
    comparisons: Sequence[Comparison]
    untested: Sequence[tuple[str, str]]
    asked_in: str = "classes"


def conclude(case: Case) -> Verdict:
    """The verdict on the subject ``erased``."""
    weak = instruments(case)
    if weak:
        return _verdict(case, "no_verdict", weak)
    drawn, threshold = _asked(case, "erased"), _threshold(case)
    if drawn is not None and (drawn.measurement.low or 0.0) > threshold:
        return _verdict(case, "not_erased", [_asking(case, drawn, threshold)], exposed_by=["asking"])
    opened = [said for role in ("asking", "access") for said in _opened(case, role)]
    because = [_asking(case, drawn, threshold)] if drawn is not None else []
    if opened:
        names = [name for name, _ in opened]
        level = "superficial" if case.question.classes else "not_erased"
        return _verdict(case, level, [*(s for _, s in opened), *because, *_kept(case)], exposed_by=names)
    told = _told_apart(case)
    missing = _missing(case)
    because += [*_survived(case), *(s for _, s in told), *missing]
    if told or missing:
        exposed = [name for name, _ in told if name]
        return _verdict(case, "suppressed", [*because, *_kept(case)], exposed_by=exposed)
    return _verdict(case, "indistinguishable_from_retrained", [*because, _equal(case), *_kept(case)])


def instruments(case: Case) -> list[str]:
    """Why no verdict can be given; empty where one can."""
    question, reasons = case.question, []
    if "base" not in case.findings:
        reasons.append("no base model was given: whether the target was ever there is not known")
    if question.classes and question.judge is None:
        reasons.append("there is no judge that could tell the target")
    if question.judge is not None and question.classes and not question.judge.held_out_n:
        reasons.append("how far the judge can be trusted is not known: it was tested on no real image; give data")
    elif question.judge is not None and question.classes and question.judge.held_out_accuracy < LEAST_ACCURATE:
        reasons.append(
            f"the instrument is too weak: the judge is right on {question.judge.held_out_accuracy:.1%} of "
            f"{question.judge.held_out_n} held-out images, and {LEAST_ACCURATE:.0%} are needed"
        )
    if not question.classes and question.judge is None and "retrained" not in case.findings:
        reasons.append("for a target of samples a retrained model is needed to compare with")
    return reasons or _nothing_to_forget(case)


def _nothing_to_forget(case: Case) -> list[str]:
    base = _asked(case, "base")
    if base is None or base.measurement.value > _threshold(case):
        return []
    m = base.measurement
    if case.question.classes:
        return [
            f"nothing to forget: asked for the target, the base model itself draws it in only {m.value:.1%} of {m.n} "
            "samples"
        ]
    member = case.findings["base"].get("mia_auc_loss")
    if member is not None and (member.measurement.low or 0.0) > 0.5:
        return []
    known = "its losses do not give them away"
    if member is None:
        known = "whether its losses give them away was not tested"
    return [f"nothing to forget: the base model itself draws the samples in {m.value:.1%} of {m.n} images, and {known}"]


def _threshold(case: Case) -> float:
    """Twice the share of the target among what the base model draws when asked for nothing."""
    if not case.question.classes:
        return 0.5 * _value(case, "base", "regeneration_rate")
    return 2 * max(CHANCE, _value(case, "base", "forget_rate_unconditional"))


def _value(case: Case, subject: str, name: str) -> float:
    found = case.findings.get(subject, {}).get(name)
    return 0.0 if found is None else found.measurement.value


def _asked(case: Case, subject: str) -> Finding | None:
    found = case.findings.get(subject, {}).values()
    return next((f for f in found if f.evidence is not None and f.evidence.role == "asking"), None)


def _asking(case: Case, drawn: Finding, threshold: float) -> str:
    m = drawn.measurement
    asked = "asked for the target, the model draws it" if case.question.classes else "the model draws forgotten samples"
    low, high = m.low or 0.0, m.high or 0.0
    return (
        f"{asked} in {m.value:.1%} of {m.n} images (95 % interval {low:.1%} to {high:.1%}; "
        f"before erasing {_value(case, 'base', m.name):.1%}; counted as still there above {threshold:.1%})"
    )


def _opened(case: Case, role: str) -> list[tuple[str, str]]:
    """Attacks of ``role`` that succeeded: beyond the retrained model's margin, or, without one, above ``alone``."""
    against = {c.name: c for c in case.comparisons}
    found = []
    for name, finding in case.findings["erased"].items():
        evidence, m = finding.evidence, finding.measurement
        if evidence is None or evidence.role != role:
            continue
        c = against.get(name)
        if c is not None and c.outcome == WORSE:
            found.append((evidence.attack, f"{_words(evidence.attack)}: {_versus(c)}"))
        elif c is None and evidence.alone is not None and (m.low or 0.0) > evidence.alone:
            found.append(
                (evidence.attack, f"{_words(evidence.attack)}: {m.value:.1%} of {m.n} (above {evidence.alone:.0%})")
            )
    return found


def _told_apart(case: Case) -> list[tuple[str, str]]:
    """What keeps the model from being called indistinguishable: told from the retrained one, or not shown equal."""
    apart = [c for c in case.comparisons if c.outcome in (WORSE, LOWER)]
    unclear = [c for c in case.comparisons if c.outcome == UNCLEAR and c.needed]
    found = [(c.attack, f"told from the retrained model by {_words(c.attack)}: {_versus(c)}") for c in apart]
    for c in unclear:
        bounds = f"95 % interval of the difference {c.low:+.2g} to {c.high:+.2g}"
        said = f"{c.erased:.3g} against {c.retrained:.3g}, {bounds}"
        found.append(("", f"not shown to equal the retrained model within {c.margin:g}: {_words(c.attack)}, {said}"))
    return found


def _missing(case: Case) -> list[str]:
    """Why equality with a retrained model cannot be claimed whatever was measured."""
    if "retrained" not in case.findings:
        return ["no retrained model was given: whether anything is left cannot be compared"]
    if case.question.goal == "concept":
        return ["the goal is a concept: a retrained model is no truth for a capability"]
    needed = (*NEEDED, SEARCHES[case.asked_in]) if case.question.classes else NEEDED_OF_SAMPLES
    done = {c.attack.split(" (")[0] for c in case.comparisons}
    lacking = [n for n in needed if n not in done]
    return [f"not attacked by {listing(lacking)}, which equality needs"] if lacking else []


def _survived(case: Case) -> list[str]:
    against = {c.name: c for c in case.comparisons}
    found = case.findings["erased"].items()
    access = [(n, f.evidence) for n, f in found if f.evidence is not None and f.evidence.role == "access"]
    names = [SAID.get(e.attack, _words(e.attack)) for n, e in access if n in against or e.alone is not None]
    return [f"the target was not brought back by {listing(dict.fromkeys(names))}"] if names else []


def _equal(case: Case) -> str:
    """On what equality was shown, and what it was not shown on because it does not require it."""
    margins = [f"{_words(c.attack)} {c.margin:g}" for c in case.comparisons if c.outcome == EQUAL]
    unclear = dict.fromkeys(_words(c.attack) for c in case.comparisons if c.outcome == UNCLEAR)
    left = f"; unclear, and not required: {listing(unclear)}" if unclear else ""
    return (
        f"on {len(margins)} of {len(case.comparisons)} comparisons, all that equality requires among them, the "
        "difference from the retrained model was shown to be smaller than its margin (two one-sided tests, 95 %): "
        f"{listing(dict.fromkeys(margins))}{left}"
    )


def _kept(case: Case) -> list[str]:
    name = "retain_accuracy" if case.question.classes else "frechet_distance"
    if name not in case.findings["erased"]:
        return []
    others = [f"{s} {_value(case, s, name):.3f}" for s in ("base", "control", "retrained") if s in case.findings]
    said = "accuracy on what was to stay" if case.question.classes else "Frechet distance to what was to stay"
    return [f"{said}: {_value(case, 'erased', name):.3f} ({', '.join(others)})"]


def _versus(c: Comparison) -> str:
    return f"{c.erased:.3g} against the retrained model's {c.retrained:.3g} (margin {c.margin:g}, p = {c.p_beyond:.2g})"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _verdict(case: Case, level: str, because: Sequence[str], exposed_by: Sequence[str] = ()) -> Verdict:
    return Verdict(
        goal=case.question.goal,
        level=level,
        because=list(because),
        exposed_by=list(dict.fromkeys(exposed_by)),
        not_tested=[{"what": what, "why": why} for what, why in case.untested],
    )
