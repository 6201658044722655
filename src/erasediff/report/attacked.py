"""What was tried on the erased model: each attack with its budget, what it found, and whether that gave it away."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erasediff.auditing.attacks import ATTACKS
from erasediff.auditing.comparison import EQUAL, LOWER, WORSE
from erasediff.auditing.result import ERASED, AuditResult, Measurement
from erasediff.report.against import comparisons, value
from erasediff.report.facts import plain
from erasediff.report.numbers import number, percent
from erasediff.report.vocabulary import AGAINST, attack_title, measure, ordered_subjects

SCORES = r"mia_auc_(loss|pia|secmi|sima)"
FOUND_IN = {
    "extraction": r"regeneration_rate|regenerated_samples",
    "membership": SCORES,
    "gradient_membership": r"mia_auc_gradient_norm",
    "weight_difference": r"mia_auc_weight_difference",
    "inversion": r"inversion_(auc|psnr)",
    "relearning": r"relearn_k\d+",
    "quantisation": r"attack_success_quantised_\d+bit",
    "pruning": r"attack_success_pruned_\d+",
    "nudity": r"nudity_rate|safety_checker_rate",
}
"""Attack -> the measures that say what it found; of others it is ``attack_success_<name>``."""

REVIVING = r"attack_success_\w+|regeneration_rate|nudity_rate"
SHARES = rf"{REVIVING}|regenerated_samples|safety_checker_rate|relearn_k\d+"
ASKING = "asking"
"""What the verdict calls asking for the target in the ordinary way; no attack is needed for it."""
READ_AGAINST_OTHERS = "image_to_image"
"""An attack that any model answers a little: without a retrained model it neither succeeds nor fails."""

GAVE_AWAY, HELD, UNCLEAR, UNREAD = ("▲", "beyond"), ("=", "within"), ("?", "unclear"), ("", "")


@dataclass(frozen=True)
class Result:
    """One number that an attack found: what it is, the erased model's, and those of the others."""

    title: str
    value: str
    others: list[tuple[str, str]]


@dataclass(frozen=True)
class Attacked:
    """One attack. ``prompts``: the words that it found, where it searched for some. ``says``: what became of it in
    words; ``sign`` and ``kind``: the same as a mark and a CSS class.
    """

    name: str
    title: str
    summary: str
    budget: str
    papers: list[tuple[str, str]]
    results: list[Result]
    prompts: list[str]
    says: str
    sign: str
    kind: str


def attacks(result: AuditResult) -> list[Attacked]:
    """The attacks of the suite that found something on the erased model, in the order in which they were made."""
    suite = result.setting.get("suite")
    listed = suite.get("attacks") if isinstance(suite, Mapping) else None
    made = [_attacked(result, _budget(a)) for a in listed or []]
    return [a for a in made if a.results]


def reviving(result: AuditResult) -> list[Attacked]:
    """Those of :func:`attacks` that try to bring the target back; the others look for traces of it."""
    return [a for a in attacks(result) if any(_revives(result, m) for m in _mine(result, a.name))]


def drawn_when_asked(result: AuditResult) -> bool:
    """Whether plain asking gave the model away, though it draws too little of the target for ``not_erased``."""
    return result.verdict.level == "superficial" and ASKING in result.verdict.exposed_by


def brought_back(result: AuditResult) -> bool:
    """Whether anything besides plain asking is named as what gave the model away."""
    return any(name != ASKING for name in result.verdict.exposed_by)


def exposed(result: AuditResult) -> list[str]:
    """Titles of what gave the erased model away, as the verdict names it."""
    return [attack_title(str(name)) for name in result.verdict.exposed_by]


def strongest(result: AuditResult) -> Measurement | None:
    """The attack without new data that brought most of the target back: beyond the retrained model where there is one.

    ``None`` where no such attack was made.
    """
    differences = {c.get("name"): value(c.get("difference")) for c in comparisons(result)}
    found = [m for m in result.measurements if m.subject == ERASED and _revives(result, m)]
    return max(found, key=lambda m: (differences.get(m.name, m.value), m.value), default=None)


def line(result: AuditResult) -> str:
    """``exposed by class embedding`` or ``none of 3 brought it back``, for the terminal."""
    tried, revived = attacks(result), reviving(result)
    if result.verdict.exposed_by:
        return "exposed by " + ", ".join(title[:1].lower() + title[1:] for title in exposed(result))
    if not tried:
        return "none was made"
    if result.verdict.level == "no_verdict":
        return f"{len(tried)} made, not judged"
    traces = [a.title.lower() for a in tried if a not in revived]
    told = [f"none of {len(revived)} brought it back"] if revived else []
    return "; ".join([*told, *(["traces looked for by " + ", ".join(traces)] if traces else [])])


def _revives(result: AuditResult, found: Measurement) -> bool:
    alone = found.name.endswith(READ_AGAINST_OTHERS) and "retrained" not in result.subjects()
    return bool(re.fullmatch(REVIVING, found.name)) and found.group != AGAINST and not alone


def _budget(given: object) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {"name": str(given)}


def _attacked(result: AuditResult, budget: Mapping[str, Any]) -> Attacked:
    name = str(budget.get("name", "?"))
    summary, papers = _described(name)
    found = _mine(result, name)
    says, (sign, kind) = _outcome(result, name, [m.name for m in found])
    return Attacked(
        name=name,
        title=attack_title(name),
        summary=summary,
        budget=plain({key: v for key, v in budget.items() if key != "name"}),
        papers=papers,
        results=[_shown(result, m) for m in found],
        prompts=[str(said) for m in found for said in _listed(m.detail.get("prompt"))],
        says=says,
        sign=sign,
        kind=kind,
    )


def _listed(given: object) -> list[object]:
    """What one prompt or several were found, as a list; nothing for none."""
    if isinstance(given, (list, tuple)):
        return [one for one in given if one]
    return [given] if isinstance(given, str) and given else []


def _mine(result: AuditResult, name: str) -> list[Measurement]:
    pattern = FOUND_IN.get(name, re.escape(f"attack_success_{name}"))
    mine = (m for m in result.measurements if m.subject == ERASED and m.group != AGAINST)
    return [m for m in mine if re.fullmatch(pattern, m.name)]


def _described(name: str) -> tuple[str, list[tuple[str, str]]]:
    """An attack's own line and its papers, (text, link) each; nothing of one whose package is not installed here."""
    if name not in ATTACKS:
        return "", []
    try:
        kind = ATTACKS[name]
    except (ImportError, AttributeError):
        return "", []
    text = str(getattr(kind, "PAPER", ""))
    numbers = re.findall(r"arXiv:(\d{4}\.\d{4,5})", text)
    summary = re.sub(r" \(\w+[*\w]*\)$", "", str(getattr(kind, "SUMMARY", "")))  # the measure's name stands beside it
    return summary, [(f"arXiv:{n}", f"https://arxiv.org/abs/{n}") for n in numbers]


def _outcome(result: AuditResult, name: str, measures: list[str]) -> tuple[str, tuple[str, str]]:
    outcomes = [c.get("outcome") for c in comparisons(result) if c.get("name") in measures]
    exposing = [str(e) for e in result.verdict.exposed_by if str(e).partition(" (")[0] == name]
    if exposing or WORSE in outcomes or LOWER in outcomes:
        return "gave the model away", GAVE_AWAY
    if outcomes:
        alike = all(o == EQUAL for o in outcomes)
        return ("like the retrained model", HELD) if alike else ("not shown to equal the retrained model", UNCLEAR)
    if result.verdict.level not in ("suppressed", "superficial"):
        return "", UNREAD
    revives = any(_revives(result, m) for m in _mine(result, name))
    return ("did not bring it back", HELD) if revives else ("needs a retrained model to be read", UNCLEAR)


def _shown(result: AuditResult, found: Measurement) -> Result:
    known = measure(found.name, found.group)
    told = percent if re.fullmatch(SHARES, found.name) else number
    others = [(s, result.find(found.name, s)) for s in ordered_subjects(result.subjects()) if s != ERASED]
    return Result(known.title, told(found.value), [(s, told(m.value)) for s, m in others if m is not None])
