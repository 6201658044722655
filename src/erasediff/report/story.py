"""The result in sentences: the verdict, what it rests on, and the few numbers that carry it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from erasediff.auditing.result import ERASED, AuditResult, Measurement
from erasediff.report.numbers import count, percent
from erasediff.report.vocabulary import ordered_subjects, target_phrase

ANSWERS = {
    "not_erased": "No. The model still produces {target}.",
    "superficial": "Only on the surface. The model no longer draws {target} when asked, but an attack brought it back.",
    "suppressed": "It is suppressed. The model no longer produces {target}; that nothing of it is left was not shown.",
    "indistinguishable_from_retrained": (
        "Yes, as far as was tested: the model could not be told from one that never saw {target}."
    ),
    "no_verdict": "No verdict. What was measured is not enough to say whether {target} is gone.",
}
GOALS = {
    "data": "The goal was data: the influence of these training samples is to be gone, "
    "and a model retrained without them is the truth.",
    "concept": "The goal was a concept: the capability is to be gone, whatever data it came from.",
}


@dataclass(frozen=True)
class Headline:
    """One number in large type: the erased model's, with those of the other subjects beside it."""

    label: str
    value: str
    note: str
    others: list[tuple[str, str]]


def answer(result: AuditResult) -> str:
    """The verdict as the answer to "has the model forgotten it?"."""
    level = result.verdict.level
    sentence = ANSWERS.get(level, f"{level.replace('_', ' ').capitalize()}.")
    return sentence.replace("{target}", target_phrase(result.target))


def verdict_line(result: AuditResult) -> str:
    """``no verdict: reason; reason`` for the terminal."""
    verdict = result.verdict
    reasons = "; ".join([*verdict.because, *(f"exposed by {e}" for e in verdict.exposed_by)])
    return verdict.level.replace("_", " ") + (f": {reasons}" if reasons else "")


def not_tested(result: AuditResult) -> list[tuple[str, str]]:
    """What was not tested and why; entries with one reason share a line."""
    by_reason: dict[str, list[str]] = {}
    for entry in result.verdict.not_tested:
        by_reason.setdefault(str(entry.get("why", "")), []).append(str(entry.get("what", "?")))
    return [(", ".join(what), why) for why, what in by_reason.items()]


def evidence(result: AuditResult) -> list[str]:
    """Up to three sentences in plain words: forgotten, kept, returned. Empty where nothing was measured."""
    return [s for s in (_forgotten(result), _kept(result), _returned(result)) if s]


def _forgotten(result: AuditResult) -> str:
    found = result.find("forget_rate")
    if found is None:
        return ""
    bounds = ""
    if found.low is not None and found.high is not None:
        bounds = f" (95 % interval {percent(found.low)} to {percent(found.high)})"
    said = (
        f"Asked for {target_phrase(result.target)}, the erased model draws it in {percent(found.value)} "
        f"of {count(found.n)} samples{bounds}"
    )
    return said + _beside(
        result,
        "forget_rate",
        {"base": "before erasing it was {}", "retrained": "a model that never saw it gets {}"},
    )


def _kept(result: AuditResult) -> str:
    found, worst = result.find("retain_accuracy"), result.find("retain_accuracy_worst")
    if found is None:
        return ""
    said = f"Asked for anything else, {percent(found.value)} of its samples are what was asked for"
    said += _beside(result, "retain_accuracy", {"base": "before erasing {}"})
    if worst is not None:
        named = f", {worst.detail['class']}," if worst.detail.get("class") else ""
        said = f"{said[:-1]}; the weakest class{named} is at {percent(worst.value)}."
    return said


def _returned(result: AuditResult) -> str:
    curves = relearning_measures(result)
    if not curves:
        return ""
    k, found = curves[len(curves) // 2]
    rates, steps = found.detail.get("forget_rate") or [], found.detail.get("steps") or []
    if not rates or not steps:
        return ""
    images = "image" if k == "1" else "images"
    said = f"Fine-tuned on {k} forgotten {images} for {count(int(steps[-1]))} steps, it draws the target in "
    said += f"{percent(rates[-1])} of samples"
    never = result.find(found.name, "retrained")
    if never is not None and never.detail.get("forget_rate"):
        return f"{said}; the model that never saw it reaches {percent(never.detail['forget_rate'][-1])}."
    return f"{said}."


def _beside(result: AuditResult, name: str, phrases: dict[str, str]) -> str:
    others = [(p, result.find(name, s)) for s, p in phrases.items()]
    said = [phrase.format(percent(m.value)) for phrase, m in others if m is not None]
    return f"; {' and '.join(said)}." if said else "."


def relearning_measures(result: AuditResult, subject: str = ERASED) -> list[tuple[str, Measurement]]:
    """(k, measurement) of each relearning of ``subject``, k ascending; k is the name's ending where it is no number."""
    found = [(str(m.detail.get("k", m.name.removeprefix("relearn_"))), m) for m in result.measurements]
    mine = [(k, m) for k, m in found if m.subject == subject and m.name.startswith("relearn_")]
    return sorted(mine, key=lambda pair: (int(re.sub(r"\D", "", pair[0]) or 0), pair[0]))


def headlines(result: AuditResult) -> list[Headline]:
    """Three or four numbers: forget rate, the same without a condition, retain accuracy, return after relearning."""
    wanted = [
        ("forget_rate", "of samples asked for the target show it"),
        ("forget_rate_unconditional", "of samples without a condition show it"),
        ("retain_accuracy", "of other samples are what was asked for"),
    ]
    if curves := relearning_measures(result):
        k, found = curves[len(curves) // 2]
        wanted.append((found.name, f"target’s mean share while relearning from {k} image{'s' * (k != '1')}"))
    return [_headline(result, m, label) for name, label in wanted if (m := result.find(name)) is not None]


def _headline(result: AuditResult, found: Measurement, label: str) -> Headline:
    others = [(s, result.find(found.name, s)) for s in ordered_subjects(result.subjects()) if s != ERASED]
    note = f"n = {count(found.n)}"
    if found.low is not None and found.high is not None:
        note = f"95 % interval {percent(found.low)} to {percent(found.high)}"
    return Headline(label, percent(found.value), note, [(s, percent(m.value)) for s, m in others if m is not None])
