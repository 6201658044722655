"""The result in sentences: the verdict, what it rests on, and the few numbers that carry it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

from erasediff.auditing.result import ERASED, AuditResult, Measurement
from erasediff.report.attacked import brought_back, drawn_when_asked, strongest
from erasediff.report.numbers import count, percent
from erasediff.report.vocabulary import measure, ordered_subjects, target_phrase

LONG = 100  # characters of a reason in the terminal
ANSWERS = {
    "not_erased": "No. The model still produces {target}.",
    "superficial": "Only on the surface. The model no longer draws {target} when asked, but an attack brought it back.",
    "superficial when asked": (
        "Only on the surface. Asked for {target}, the model draws it more often than one that never saw it, though "
        "less often than counts as still there{attacks}."
    ),
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


ASKED = ("forget_rate_faithful", "forget_rate", "regeneration_rate")
UNASKED = ("forget_rate_unconditional",)
"""Measures of one question, the one that the verdict rests on first."""


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
    if drawn_when_asked(result):
        sentence = ANSWERS["superficial when asked"]
    told = "; an attack brought it back as well" if brought_back(result) else ""
    return sentence.replace("{attacks}", told).replace("{target}", target_phrase(result.target))


def verdict_line(result: AuditResult) -> str:
    """``suppressed: first reason (3 more in the report)`` for the terminal; a long reason loses its last bracket."""
    level, reasons = result.verdict.level.replace("_", " "), [str(r) for r in result.verdict.because]
    if not reasons:
        return level
    first = reasons[0] if len(reasons[0]) <= LONG else re.sub(r" \([^()]*\)$", "", reasons[0])
    return f"{level}: {first}" + (f" ({len(reasons) - 1} more in the report)" if len(reasons) > 1 else "")


def reasons(result: AuditResult) -> list[tuple[str, list[str]]]:
    """The verdict's reasons, (sentence, []) each; neighbours with one beginning share it: (beginning, endings)."""
    begun = [_divided(str(reason)) for reason in result.verdict.because]
    shared = [(head, [tail for _, tail in members]) for head, members in groupby(begun, key=lambda pair: pair[0])]
    return [(head, tails) if len(tails) > 1 else (head + tails[0], []) for head, tails in shared]


def _divided(reason: str) -> tuple[str, str]:
    head, colon, tail = reason.partition(": ")
    return head + colon, tail


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
    name = _first(result, ASKED)
    found = result.find(name)
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
        name,
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
    """(k, measurement) of each relearning of ``subject`` from k forgotten images, k ascending."""
    mine = [m for m in result.measurements if m.subject == subject and re.fullmatch(r"relearn_k\d+", m.name)]
    found = [(str(m.detail.get("k", m.name.removeprefix("relearn_k"))), m) for m in mine]
    return sorted(found, key=lambda pair: (int(re.sub(r"\D", "", pair[0]) or 0), pair[0]))


def headlines(result: AuditResult) -> list[Headline]:
    """Three or four numbers: asked for the target, the strongest attack (or unasked), what it kept, relearning."""
    wanted = [(_first(result, ASKED), "of images show the target when it is asked for")]
    if attack := strongest(result):
        wanted.append((attack.name, f"under the strongest attack: {measure(attack.name, '').title.lower()}"))
    else:
        wanted.append((_first(result, UNASKED), "of images drawn without a condition show it"))
    wanted.append(("retain_accuracy", "of other images are what was asked for"))
    if curves := relearning_measures(result):
        k, found = curves[len(curves) // 2]
        wanted.append((found.name, f"mean share of the target while relearning from {k} image{'s' * (k != '1')}"))
    return [_headline(result, m, label) for name, label in wanted if (m := result.find(name)) is not None]


def _first(result: AuditResult, names: tuple[str, ...]) -> str:
    """The first of ``names`` that was measured on the erased model, else the last."""
    return next((name for name in names if result.find(name) is not None), names[-1])


def _headline(result: AuditResult, found: Measurement, label: str) -> Headline:
    others = [(s, result.find(found.name, s)) for s in ordered_subjects(result.subjects()) if s != ERASED]
    note = f"n = {count(found.n)}"
    if found.low is not None and found.high is not None:
        note = f"95 % interval {percent(found.low)} to {percent(found.high)}"
    return Headline(label, percent(found.value), note, [(s, percent(m.value)) for s, m in others if m is not None])
