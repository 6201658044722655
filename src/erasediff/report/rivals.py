"""The reference against each rival: paired tests over (target, seed) pairs, corrected for their number, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from erasediff.auditing.statistics import holm, paired_t, signed_rank, tost
from erasediff.report.aggregate import CONTROL, MODEL, Aggregate
from erasediff.report.numbers import number
from erasediff.report.vocabulary import measure

LEVEL = 0.05
MEASURES = (
    "forget_rate",
    "forget_rate_unconditional",
    "retain_accuracy",
    "retain_accuracy_worst",
    "frechet_distance",
    "kernel_distance",
    "precision",
    "recall",
    "density",
    "coverage",
)
"""The family of the tests: every one of these against every rival."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Reference less rival on one measure. ``better``: who has the better mean; p-values are two-sided.

    ``p_holm`` is corrected over all tests of the comparison, ``equivalence_holm`` over all tests of equivalence.
    """

    measure: str
    reference: str
    rival: str
    pairs: int
    difference: float
    low: float | None
    high: float | None
    better: str
    p: float | None
    p_holm: float | None = None
    p_signed_rank: float | None = None
    note: str = ""
    margin: float | None = None
    equivalence_p: float | None = None
    equivalence_holm: float | None = None


def paired_tests(found: Sequence[Aggregate], reference: str | None, margins: Mapping[str, float]) -> list[PairedTest]:
    """Every measure of :data:`MEASURES` against every rival that shares pairs with the reference."""
    mine = next((a for a in found if a.label == reference), None)
    if mine is None:
        return []
    rivals = [a for a in found if a.kind != MODEL and a.label != reference]
    made = [t for name in MEASURES for rival in rivals if (t := _test(name, mine, rival, margins)) is not None]
    tested, equal = _adjusted([t.p for t in made]), _adjusted([t.equivalence_p for t in made])
    return [replace(t, p_holm=p, equivalence_holm=e) for t, p, e in zip(made, tested, equal, strict=True)]


def _test(name: str, mine: Aggregate, rival: Aggregate, margins: Mapping[str, float]) -> PairedTest | None:
    ours = {r.pair: r.measures[name] for r in mine.runs if name in r.measures}
    theirs = {r.pair: r.measures[name] for r in rival.runs if name in r.measures}
    shared = [pair for pair in ours if pair in theirs]
    if not shared:
        return None
    differences = [ours[p].value - theirs[p].value for p in shared]
    result, margin = paired_t(differences), margins.get(name)
    gain = result.difference if ours[shared[0]].higher_is_better else -result.difference
    better = mine.label if gain > 0 else rival.label if gain < 0 else ""
    return PairedTest(
        measure=name,
        reference=mine.label,
        rival=rival.label,
        pairs=result.n,
        difference=result.difference,
        low=result.low,
        high=result.high,
        better=better,
        p=result.p,
        p_signed_rank=signed_rank(differences),
        note=result.note,
        margin=margin,
        equivalence_p=tost(differences, margin) if margin is not None else None,
    )


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over those that are there."""
    family = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(family) for p in p_values]


@dataclass(frozen=True)
class Sentences:
    """Where the reference loses and where it wins, a sentence a measure; and what could not be tested."""

    losses: list[str]
    unproven: list[str]
    wins: list[str]
    notes: list[str]


def sentences(made: Sequence[PairedTest], found: Sequence[Aggregate]) -> Sentences:
    """The tests in words: rivals that are better come first, whether or not a test can show it."""
    controls = {a.label for a in found if a.kind == CONTROL}
    lost = [t for t in made if t.better == t.rival]
    won = [t for t in made if t.better == t.reference and shown(t)]
    notes = []
    if made:
        family = sum(t.p is not None for t in made)
        notes.append(f"p-values carry Holm’s correction over {family} test{'s' * (family != 1)}.")
    return Sentences(
        _by_measure([t for t in lost if shown(t)], controls),
        _by_measure([t for t in lost if not shown(t)], controls),
        _by_measure(won, controls),
        notes,
    )


def shown(test: PairedTest) -> bool:
    """Whether the corrected test tells the two apart."""
    return test.p_holm is not None and test.p_holm < LEVEL


def chance(p: float | None, name: str = "") -> str:
    """A p-value: ``0.031``, ``< 0.001``, ``1``; with ``name`` as ``p = 0.031``."""
    sign = "= " if name else ""
    if p is None:
        return number(None)
    return f"{name}< 0.001" if p < 0.001 else f"{name}{sign}{1 if p > 0.9995 else format(p, '.3f')}"


def _by_measure(chosen: Sequence[PairedTest], controls: set[str]) -> list[str]:
    lines = []
    for name in dict.fromkeys(t.measure for t in chosen):
        mine = [t for t in chosen if t.measure == name]
        said = ", ".join(_rival(t, controls) for t in mine)
        lines.append(f"{measure(name, '').title}: {said}.")
    return lines


def _rival(test: PairedTest, controls: set[str]) -> str:
    aside = ", the control" if test.rival in controls else ""
    p = chance(test.p_holm, "p ") if test.p_holm is not None else test.note
    pairs = f"{test.pairs} pair{'s' * (test.pairs != 1)}"
    told = [f"by {number(abs(test.difference))}", p, pairs if "pair" not in p else ""]
    return f"{test.rival}{aside} ({', '.join(filter(None, told))})"
