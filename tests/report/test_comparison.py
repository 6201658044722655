"""A comparison of made-up runs: means, tests, fronts, the race and the page; diverged runs are never dropped."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from report_samples import Page, measured

from erasediff.auditing.statistics import holm, t_interval
from erasediff.errors import BadInput
from erasediff.report.aggregate import CONTROL, DIVERGED, MODEL, NOT_RUN, RunRow, aggregate, best, contenders, mean_of
from erasediff.report.compared import Comparison
from erasediff.report.comparison import markdown, render, terminal_lines
from erasediff.report.pareto import pictures
from erasediff.report.plot import SHAPES, accuracy_axis, linear_axis, ratio_axis, share_axis, styles
from erasediff.report.race import parse, standings
from erasediff.report.race_curves import curves, lines

NASTY = "<script>alert(1)</script>\"'&{{ 777 * 7 }}"
SEEDS = range(6)


def row(label: str, seed: int | None, forget: float, kept: float, distance: float, **fields) -> RunRow:
    found = [
        measured("forget_rate", value=forget),
        measured("retain_accuracy", value=kept, group="retain", higher_is_better=True),
        measured("frechet_distance", value=distance, group="retain"),
    ]
    cost = {"seconds": 10.0 + len(label), "steps": 30.0, "peak_memory_bytes": 2.0**30}
    given = {
        "target": "class:7",
        "status": "completed",
        "path": "runs/x",
        "measures": {m.name: m for m in found},
        "cost": cost,
    }
    return RunRow(label=label, seed=seed, **{**given, **fields})


def full() -> list[RunRow]:
    """A base model, a control, three methods of six seeds, one that diverged everywhere and one that lost a run."""
    shift = np.random.default_rng(0).normal(0, 0.004, (4, 6))
    rows = [row("base", None, 0.98, 0.97, 5.0, kind=MODEL, cost={})]
    for s in SEEDS:
        rows += [
            row("fine_tune", s, 0.9 + shift[0, s], 0.97, 4.8, kind=CONTROL),
            row("erasediff", s, 0.01 + abs(shift[1, s]), 0.94 + shift[1, s], 5.5),
            row("salun", s, 0.01, 0.96 + shift[2, s], 6.5),
            row("worse", s, 0.2, 0.80 + shift[3, s], 9.0),
            row("lost", s, 0.0, 0.99, 5.0) if s else row("lost", s, 0, 0, 0, status=DIVERGED, measures={}),
            row("gone", s, 0, 0, 0, status=DIVERGED, detail="loss is not finite", measures={}),
        ]
    return rows


@pytest.fixture(scope="module")
def found() -> Comparison:
    return Comparison(rows=full(), reference="erasediff", control="fine_tune", margins={"retain_accuracy": 0.05})


def test_means_over_runs_have_students_interval_and_single_ones_their_own():
    values = [1.1, 1.2, 1.4]
    made = mean_of([measured("frechet_distance", value=v) for v in values])
    assert (made.low, made.high) == pytest.approx(t_interval(values))
    assert made.value == pytest.approx(3.7 / 3) and made.runs == 3 and made.spread == "runs"
    share = mean_of([measured("forget_rate", value=v) for v in (0.0, 0.5)])
    assert (share.low, share.high) == (0.0, 1.0)
    assert mean_of([measured("kernel_distance", value=v) for v in (0.0, 0.5)]).low < 0
    for same in ([0.3], [0.3, 0.3]):
        made = mean_of([measured("forget_rate", value=v) for v in same])
        assert (made.low, made.high, made.spread) == (pytest.approx(0.29), pytest.approx(0.31), "own")
    assert mean_of([measured("relearn_k1", low=None, high=None)]).spread == "none"


def test_diverged_runs_keep_their_row_and_are_in_no_mean(found):
    gone, lost = found.find("gone"), found.find("lost")
    assert gone.statuses == {DIVERGED: 6} and not gone.measures and not gone.cost
    assert lost.measured == 5 and lost.measures["retain_accuracy"].value == pytest.approx(0.99)
    record = found.to_dict()
    assert sum(r["status"] == DIVERGED for r in record["runs"]) == 7
    assert [a["label"] for a in record["aggregates"]][-1] == "gone"
    text = Page(render(found)).text
    assert text.count("diverged") >= 10 and "loss is not finite" in text and "1 diverged" in text
    assert "gone" in markdown(found) and any(line.startswith("gone") for line in terminal_lines(found))


def test_only_what_may_be_compared_is_ranked(found):
    ranked = [a.label for a in contenders(found.aggregates)]
    assert ranked == ["erasediff", "salun", "worse"]  # not the control, nor those that lost a run
    assert found.best("retain_accuracy") == {"salun"} and found.best("frechet_distance") == {"erasediff"}
    alone = aggregate([row("a", 0, 0, 1, 1)])
    assert best(alone, "forget_rate", higher_is_better=False) == set()
    narrow = aggregate([row("a", 0, 0.1, 1, 1), row("a", 1, 0.1, 1, 1), row("b", 0, 0.0, 1, 1)])
    assert [a.label for a in contenders(narrow)] == ["a"]


def test_no_method_of_the_front_is_beaten_and_every_other_is(found):
    for picture in pictures(found.aggregates):
        sign = -1 if picture.higher_is_better else 1
        places = {s: (x.value, sign * y.value) for s, (x, y) in picture.points.items()}
        ranked = [a.label for a in contenders(found.aggregates)]

        def beaten(label: str, places=places, ranked=ranked) -> bool:
            mine = places[label]
            return any(places[o] != mine and all(np.less_equal(places[o], mine)) for o in ranked)

        assert set(picture.front) == {s for s in ranked if not beaten(s)}
        assert "worse" not in picture.front and {"base", "fine_tune", "lost"} <= set(picture.points)
    assert pictures(found.aggregates)[0].points["erasediff"][1].value == pytest.approx(1.1)


def test_tests_are_paired_corrected_and_in_words(found):
    tests = {(t.measure, t.rival): t for t in found.tests}
    assert {t.rival for t in found.tests} == {"fine_tune", "salun", "worse", "lost"}
    family = [t for t in found.tests if t.p is not None]
    assert [t.p_holm for t in family] == holm([t.p for t in family])
    assert tests["retain_accuracy", "lost"].pairs == 5 and tests["retain_accuracy", "salun"].pairs == 6
    assert tests["retain_accuracy", "salun"].better == "salun"
    assert tests["retain_accuracy", "worse"].better == "erasediff"
    assert tests["frechet_distance", "salun"].p is None and "no test" in tests["frechet_distance", "salun"].note
    assert tests["retain_accuracy", "salun"].equivalence_p < 0.05 and tests["forget_rate", "salun"].margin is None
    text = Page(render(found)).text
    assert re.search(
        r"Better than erasediff, shown by a paired test.*Retain accuracy: .*salun \(by 0\.0", text, re.DOTALL
    )
    assert "fine_tune, the control" in text


def test_one_seed_is_said_to_be_no_test():
    alone = Comparison(rows=[row("a", 0, 0.1, 0.9, 1), row("b", 0, 0.2, 0.8, 2)], reference="a")
    assert all(t.p is None and t.note == "one pair: no test" for t in alone.tests)
    text = Page(render(alone)).text
    assert "One run a method" in text and "over 0 tests" in text
    apart = Comparison(rows=[row("a", 0, 0.1, 0.9, 1), row("b", 1, 0.2, 0.8, 2)], reference="a")
    assert apart.tests == [] and "no two runs share" in Page(render(apart)).text


def test_time_is_a_ratio_over_shared_runs_only(found):
    erased = found.to_dict()["aggregates"][2]
    assert erased["label"] == "erasediff" and erased["cost"]["seconds"]["over_reference"] == 1
    few = [replace(r, cost={}) if r.seed == 0 and r.label == "salun" else r for r in full()]
    doubled = [replace(r, cost={"seconds": 1000.0}) if r.seed == 0 and r.label == "erasediff" else r for r in few]
    again = Comparison(rows=doubled, reference="erasediff").to_dict()
    ratio = next(a for a in again["aggregates"] if a["label"] == "salun")["cost"]["seconds"]["over_reference"]
    assert ratio == pytest.approx(15 / 19)  # seed 0 is left out on both sides


def test_the_page_is_well_formed_self_contained_and_says_what_its_pictures_show(found):
    html = render(found)
    page = Page(html)
    assert html == render(found)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    referred = [a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]
    assert set(referred) <= set(ids)
    assert not page.of("script") and not page.of("link") and "url(" not in html and "http" not in html
    drawn = [a for _, a in page.tags if a.get("role") == "img"]
    assert len(drawn) == 2 and all("erasediff" in a["aria-label"] for a in drawn)


def test_labels_and_everything_else_from_users_are_escaped():
    rows = [
        row(NASTY, 0, 0.1, 0.9, 1, target=NASTY, detail=NASTY, setting={"suite": {"name": NASTY}}),
        row("b", 0, 0.2, 0.8, 2, target=NASTY, status=DIVERGED, detail=NASTY, measures={}),
        row("c", 0, 0.2, 0.8, 2, target=NASTY),
    ]
    raced = race(("c", 0, True, 5.0), (NASTY, 0, True, 10.0))
    made = Comparison(rows=rows, reference=NASTY, race=raced, notes=[NASTY])
    html = render(made)
    page = Page(html)
    assert not page.of("script") and "<script" not in html and "5439" not in page.text
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert "<script" not in markdown(made)
    json.dumps(made.to_dict(), allow_nan=False)


def test_what_was_not_run_yet_is_counted_and_shown():
    rows = [row("a", 0, 0.1, 0.9, 1), row("a", 1, 0, 0, 0, status=NOT_RUN, measures={}, cost={})]
    made = Comparison(rows=rows, reference="a")
    assert len(made.missing) == 1 and "1 of 2" in Page(render(made)).text
    assert "1 of 2 runs not run yet; the same command goes on" in terminal_lines(made)
    empty = Comparison(rows=[replace(r, measures={}, status=NOT_RUN, cost={}) for r in rows], reference="a")
    assert "not run yet" in Page(render(empty)).text


RUN = {"label": "a", "seed": 0, "reached": False, "limit_seconds": 9, "points": []}


def race(*runs: tuple[str, int, bool, float], ended: str = ""):
    made = [
        {
            "label": s,
            "seed": seed,
            "reached": reached,
            "seconds": t if reached else None,
            "steps": 4 if reached else None,
            "ended": s == ended,
        }
        | {
            "limit_seconds": t,
            "points": [{"seconds": x, "step": 1, "forget_rate": 0.5, "frechet_ratio": 2} for x in (0, t)],
        }
        for s, seed, reached, t in runs
    ]
    return parse({"schema": 1, "target_line": {"forget_rate": 0.02, "frechet_ratio": 1.1}, "runs": made}, "race.json")


def test_the_race_gives_ratios_and_bounds_and_never_seconds():
    made = race(
        ("ref", 0, True, 10.0), ("ref", 1, True, 20.0), ("ref", 2, False, 40.0),
        ("a", 0, True, 20.0), ("a", 1, False, 90.0), ("a", 2, True, 20.0),
        ("b", 0, False, 777.0), ("b", 1, False, 777.0), ("b", 3, True, 1.0),
    )  # fmt: skip
    by_label = {s.label: s for s in standings(made, "ref")}
    a, b = by_label["a"], by_label["b"]
    assert (a.reached, a.runs) == (2, 3)
    assert [(x.value, x.sign) for x in (a.least, a.middle, a.most)] == [(0.5, "<"), (2.0, ""), (4.5, ">")]
    assert (b.middle.value, b.middle.sign) == (777 / 20, ">")
    assert by_label["ref"].middle.value == 1
    shown = " ".join(str(line) for line in lines(made, "ref"))
    assert "> 38.85" in shown and "777" not in shown
    drawn = curves(made, "ref", styles(made.labels))
    assert len(drawn) == 2 and not any(
        "777" in svg or "90" in svg.split("aria-label")[1].split(">")[0] for _, svg in drawn
    )
    assert standings(made, None)[0].middle is None


def test_a_run_that_came_to_its_own_end_never_arrives():
    runs = [("ref", seed, True, 10.0) for seed in (0, 1, 2, 3)]
    runs += [("a", 0, False, 5.0), ("a", 1, True, 20.0)]
    runs += [("b", 0, False, 5.0), ("c", 0, True, 7.0), ("c", 1, True, 8.0)]
    made = race(*runs, ended="a")
    a, b, c = (next(s for s in standings(made, "ref") if s.label == name) for name in "abc")
    assert (a.least.value, a.most.sign) == (2.0, "never")
    assert (a.middle.value, a.middle.sign) == (2.0, ">"), "between 2 and never"
    assert (b.middle.value, b.middle.sign) == (0.5, ">"), "given up early, and might have arrived"
    assert not c.most.sign
    (shown,) = (line for line in lines(made, "ref") if line.label == "a")
    assert shown.spread.endswith("to never") and shown.time == "> 2.00"
    alone = race(("ref", 0, True, 10.0), ("a", 0, False, 5.0), ended="a")
    assert standings(alone, "ref")[1].middle.sign == "never"
    assert race(("a", 0, True, 5.0), ended="a").runs[0].ended is False, "who arrived has not come to an end short of it"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema 2; this version reads 1"),
        ({"runs": []}, "runs (a list, not empty)"),
        ({"target_line": {"forget_rate": 0.1}}, "target_line.frechet_ratio must be a finite number"),
        ({"runs": [{"label": "a"}]}, "needs label, seed, reached"),
        ({"runs": [{**RUN, "limit_seconds": 0}]}, "limit_seconds must be above 0, got 0"),
        ({"runs": [{**RUN, "reached": True, "seconds": 0.0}]}, "runs[0].seconds must be above 0, got 0.0"),
    ],
)
def test_a_race_of_another_form_is_refused(change, said):
    good = {"schema": 1, "target_line": {"forget_rate": 0.02, "frechet_ratio": 1.1}, "runs": [1]}
    with pytest.raises(BadInput, match=re.escape(said)):
        parse({**good, **change}, "race.json")


def test_axes_hold_their_values_and_marks_differ():
    for axis, values in ((share_axis("x", [0.3]), [0, 0.3]), (linear_axis("y", [0.91, 0.97]), [0.91, 0.97])):
        assert all(0 <= axis.place(v) <= 1 for v in values) and len(axis.ticks) >= 2
        assert [axis.place(t) for t in axis.ticks] == sorted(axis.place(t) for t in axis.ticks)
    wide = ratio_axis("y", [0.9, 60.0])
    assert wide.place(6) - wide.place(0.6) == pytest.approx(wide.place(60) - wide.place(6))
    assert linear_axis("y", [1.0, 1.0]).place(1.0) in (0, 1)
    near, ruined = accuracy_axis("y", [0.98, 0.985, 0.99]), accuracy_axis("y", [0.6, 0.98, 0.985, 0.99])
    assert near.place(0.99) - near.place(0.98) == pytest.approx(2 * (near.place(0.985) - near.place(0.98)))
    assert ruined.place(0.99) - ruined.place(0.98) > 0.05, "one that is ruined does not squeeze the others together"
    assert [ruined.place(t) for t in ruined.ticks] == sorted(ruined.place(t) for t in ruined.ticks)
    assert ruined.ticks[0] == ruined.low <= 0.6 and ruined.text(ruined.ticks[-2]) == "99 %"
    assert accuracy_axis("y", [-0.1, 1.0, 1.0]).place(0.0) == 0, "a bound may lie below all accuracies"
    kinds = styles(["base", *(str(i) for i in range(20))])
    assert len(set(kinds.values())) == 21 and len(SHAPES) == len(set(SHAPES))
