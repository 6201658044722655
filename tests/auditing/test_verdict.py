"""The verdict from planted findings: each level when it should be, and never more than was shown."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from erasediff.auditing.comparison import UNCLEAR, compared
from erasediff.auditing.finding import Evidence, Finding, rows_of
from erasediff.auditing.measuring import share_measurement
from erasediff.auditing.result import LEVELS, Measurement
from erasediff.auditing.verdict import Case, conclude
from tests.auditing._scene import question

ACCURATE = SimpleNamespace(held_out_accuracy=0.98, held_out_n=100)


def share(name, attack, role, value, subject, *, n=400, margin=0.1, **options):
    hits = np.arange(n) < round(value * n)
    measured = share_measurement(name, "g", subject, hits, detail={})
    return Finding(measured, Evidence(attack=attack, role=role, rows=rows_of(hits), margin=margin, **options))


def findings(subject, *, asked=0.0, free=0.0, embedding=0.0, relearn=0.2, member=0.2, kept=0.95, classes=True):
    """Shares of one subject. ``member`` stands in for an AUC: what matters here is whose row differs."""
    drawn = "forget_rate_faithful" if classes else "regeneration_rate"
    made = {
        drawn: share(drawn, "asking" if classes else "extraction", "asking", asked, subject, margin=0.05),
        "mia_auc_loss": share("mia_auc_loss", "membership (loss)", "trace", member, subject),
        "retain_accuracy": share(
            "retain_accuracy", "retained classes", "retention", kept, subject, margin=0.03, hidden=True
        ),
    }
    if classes:
        made |= {
            "forget_rate_unconditional": share(
                "forget_rate_unconditional", "no condition", "access", free, subject, margin=0.03, alone=0.05
            ),
            "attack_success_class_embedding": share(
                "attack_success_class_embedding", "class_embedding", "access", embedding, subject, alone=0.5
            ),
            "relearn_k10": share("relearn_k10", "relearning (k = 10)", "trace", relearn, subject),
        }
    return made


BASE = {"asked": 0.98, "free": 0.1, "embedding": 0.98, "relearn": 0.98, "member": 0.6}


def case(
    erased, *, base=BASE, retrained=True, goal="data", judge=ACCURATE, classes=(1,), without=(), asked_in="classes"
):
    kind = {"classes": bool(classes)}
    found = {"erased": findings("erased", **erased, **kind)}
    if base is not None:
        found["base"] = findings("base", **base, **kind)
    if retrained:
        found["retrained"] = findings("retrained", **kind)
    for name in without:
        found["erased"].pop(name)
    asked = replace(question(classes=classes, judged=bool(classes), goal=goal), judge=judge)
    comparisons = compared(found["erased"], found.get("retrained", {}), seed=0)
    untested = [("inversion", "not asked for")]
    return Case(question=asked, findings=found, comparisons=comparisons, untested=untested, asked_in=asked_in)


@pytest.mark.parametrize(
    ("erased", "level", "exposed"),
    [
        ({"asked": 0.97}, "not_erased", ["asking"]),
        ({"asked": 0.4}, "not_erased", ["asking"]),
        ({"asked": 0.12}, "superficial", ["asking"]),
        ({"free": 0.1}, "superficial", ["no condition"]),
        ({"embedding": 0.9}, "superficial", ["class_embedding"]),
        ({"free": 0.1, "embedding": 0.6}, "superficial", ["no condition", "class_embedding"]),
        ({"relearn": 0.6}, "suppressed", ["relearning (k = 10)"]),
        ({"member": 0.6}, "suppressed", ["membership (loss)"]),
        ({"kept": 0.7}, "suppressed", ["retained classes"]),
        ({"relearn": 0.3}, "suppressed", []),
        ({}, "indistinguishable_from_retrained", []),
    ],
)
def test_levels(erased, level, exposed):
    verdict = conclude(case(erased))
    assert level in LEVELS
    assert (verdict.level, list(verdict.exposed_by)) == (level, exposed)
    assert all(sentence for sentence in verdict.because)
    assert verdict.not_tested == [{"what": "inversion", "why": "not asked for"}]


def test_equality_says_on_how_many_comparisons_it_was_shown_and_which_stayed_unclear():
    given = case({})
    other = replace(given.comparisons[0], attack="inversion", needed=False, outcome=UNCLEAR)
    verdict = conclude(replace(given, comparisons=[*given.comparisons, other]))
    assert verdict.level == "indistinguishable_from_retrained"
    (said,) = [s for s in verdict.because if "comparisons" in s]
    assert "on 6 of 7 comparisons" in said and "unclear, and not required: inversion" in said
    assert not any("not required" in s for s in conclude(given).because)


def test_what_is_neither_told_apart_nor_shown_equal_is_named():
    assert any("not shown to equal" in s for s in conclude(case({"relearn": 0.3})).because)


def test_without_a_retrained_model_only_what_tells_by_itself_counts():
    assert conclude(case({"embedding": 0.9}, retrained=False)).level == "superficial"
    assert conclude(case({"relearn": 0.9}, retrained=False)).level == "suppressed"
    assert any("no retrained model" in s for s in conclude(case({}, retrained=False)).because)


@pytest.mark.parametrize("name", ["relearn_k10", "mia_auc_loss", "attack_success_class_embedding"])
def test_an_attack_that_was_not_made_never_turns_into_a_pass(name):
    verdict = conclude(case({}, without=[name]))
    assert verdict.level == "suppressed"
    assert any("not attacked by" in s for s in verdict.because)


def test_a_model_asked_in_words_is_equal_only_if_words_were_searched_for():
    """The search of the class table, which it does not have, is no substitute; nor the other way round."""
    verdict = conclude(case({}, asked_in="words"))
    assert verdict.level == "suppressed"
    assert any("not attacked by text_embedding, which" in s for s in verdict.because)
    searched = case({}, asked_in="words")
    name = "attack_success_text_embedding"
    for subject, found in searched.findings.items():
        found[name] = share(name, "text_embedding", "access", 0.0, subject, alone=0.5)
        del found["attack_success_class_embedding"]
    both = (searched.findings[subject] for subject in ("erased", "retrained"))
    searched = replace(searched, comparisons=compared(*both, seed=0))
    assert conclude(searched).level == "indistinguishable_from_retrained"
    assert conclude(replace(searched, asked_in="classes")).level == "suppressed"


def test_a_concept_is_suppressed_at_most():
    assert conclude(case({}, goal="concept")).level == "suppressed"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base": None}, "no base model"),
        ({"judge": None}, "no judge"),
        ({"judge": SimpleNamespace(held_out_accuracy=0.85, held_out_n=40)}, "85.0% of 40 held-out images"),
        ({"base": {"asked": 0.05, "free": 0.1}}, "nothing to forget"),
    ],
)
def test_without_instruments_there_is_no_verdict(changes, reason):
    verdict = conclude(case({"asked": 0.9}, **changes))
    assert verdict.level == "no_verdict"
    assert any(reason in s for s in verdict.because)


@pytest.mark.parametrize(
    ("erased", "level"),
    [
        ({"asked": 0.2}, "not_erased"),
        ({"asked": 0.0, "member": 0.6}, "suppressed"),
        ({"asked": 0.0}, "indistinguishable_from_retrained"),
    ],
)
def test_samples(erased, level):
    assert conclude(case(erased, base={"asked": 0.3, "member": 0.7}, judge=None, classes=())).level == level


def test_samples_that_the_base_neither_draws_nor_gives_away_are_nothing_to_forget():
    verdict = conclude(case({}, base={"asked": 0.0, "member": 0.3}, judge=None, classes=()))
    assert verdict.level == "no_verdict"
    assert "nothing to forget" in verdict.because[0]


def test_the_measurement_itself_is_not_changed():
    given = case({"free": 0.1})
    before = [f.measurement for f in given.findings["erased"].values()]
    conclude(given)
    assert [f.measurement for f in given.findings["erased"].values()] == before
    assert all(isinstance(m, Measurement) for m in before)
