"""Comparisons and attacks: what the page and the terminal say of them."""

from __future__ import annotations

import dataclasses
import re

import pytest
from report_samples import Page, attacked, audited, compared, full_measurements, measured

from erasediff.auditing.attacks import ATTACKS
from erasediff.auditing.suites import SUITES
from erasediff.report import against, story
from erasediff.report.attacked import FOUND_IN, attacks, line, strongest
from erasediff.report.facts import command, measuring
from erasediff.report.page import render
from erasediff.report.tables import markdown, summary_lines, table
from erasediff.report.vocabulary import AGAINST, attack_title, measure


def test_rows_stand_by_role_with_the_outcome_in_words_and_signs():
    rows = against.rows(attacked())
    assert [r.role for r in rows] == ["asking", "access", "trace", "retention"]
    assert [r.sign for r in rows] == ["=", "▲", "?", "▼"]
    assert (rows[2].title, rows[2].difference, rows[2].interval) == ("Membership (PIA)", "+0.110", "[-0.001, 0.220]")
    assert against.tally(rows).startswith("Of 4 comparisons: 1 beyond the margin, 1 below")
    text = Page(render(attacked(), {})).text
    assert "within the margin" in text and "±0.15" in text and "No retrained model" not in text


def test_a_row_that_equality_does_not_need_says_so():
    found = audited()
    found.setting["comparisons"] = [compared(needed=False), compared(needed=False, outcome="within the margin")]
    assert [row.note for row in against.rows(found)] == ["not required for equality", ""]
    assert "not required for equality" in Page(render(found, {})).text


def test_differences_are_drawn_in_margins_and_stay_on_the_axis():
    html = against.forest(against.rows(attacked()))
    assert 'class="band" x="25%" width="50%"' in html
    places = [float(x) for x in re.findall(r'<svg x="([\d.]+)%" y="12"', html)]
    assert places == pytest.approx([50.0, 100.0, 89.29, 89.29], abs=0.01)
    whiskers = re.findall(r'x1="([\d.]+)%" x2="([\d.]+)%" y1', html)
    assert all(0 <= float(a) <= float(b) <= 100 for a, b in whiskers)


def test_without_a_retrained_model_a_sentence_says_so():
    page = Page(render(audited(*full_measurements()), {}))
    assert "No retrained model was compared with" in page.text and "No attack was made" in page.text
    assert against.forest([]) == "" and against.rows(audited()) == []


def test_gaps_stand_in_no_table_of_measures():
    assert all("gap" not in row.name for group in table(attacked()).groups for row in group.rows)
    assert "gap" not in markdown(attacked())
    assert measure("mia_auc_pia_gap", AGAINST).title == "Membership by PIA, gap"
    assert measure("relearn_auc_gap", AGAINST).group == measure("relearn_k10_gap", "").group == AGAINST


def test_an_attack_shows_what_it_did_and_whether_it_gave_the_model_away():
    membership, embedding = attacks(attacked())
    assert (embedding.says, embedding.sign) == ("gave the model away", "▲")
    assert (membership.says, membership.sign) == ("not shown to equal the retrained model", "?")
    assert embedding.budget == "samples 9" and embedding.summary == ATTACKS["class_embedding"].SUMMARY
    assert embedding.papers == [("arXiv:2308.01508", "https://arxiv.org/abs/2308.01508")]
    assert embedding.results[0].value == "63.0 %" and embedding.results[0].others == [("retrained", "2.0 %")]
    page = Page(render(attacked(), {}))
    assert "gave the model away" in page.text and "Exposed by" in page.text
    assert "https://arxiv.org/abs/2308.01508" in [a.get("href") for a in page.of("a")]


def test_every_attack_of_the_suites_finds_its_measures():
    assert set(FOUND_IN) <= set(ATTACKS)
    names = [
        "regeneration_rate", "mia_auc_secmi", "mia_auc_gradient_norm", "mia_auc_weight_difference", "inversion_auc",
        "relearn_k1", "attack_success_quantised_8bit", "attack_success_pruned_30", "attack_success_class_embedding",
        "attack_success_guidance", "attack_success_image_to_image", "attack_success_retain_training",
        "attack_success_text_embedding", "attack_success_token_search", "attack_success_prompt_debugging",
        "attack_success_prompt_mining",
    ]  # fmt: skip
    found = audited(*(measured(name) for name in names), level="suppressed")
    found.setting["suite"] = SUITES["full"].to_dict()
    assert len(attacks(found)) == len(names) == len(SUITES["full"].attacks)
    assert all(len(a.results) == 1 and a.summary for a in attacks(found))
    assert all(measure(name, "").title and "attack success" not in measure(name, "").title for name in names)


def test_an_attack_that_needs_another_model_counts_for_nothing_alone():
    found = audited(measured("attack_success_image_to_image", value=0.9), level="suppressed", exposed_by=[])
    found.setting["suite"] = {"attacks": [{"name": "image_to_image"}, {"name": "of_another_package"}]}
    assert strongest(found) is None and line(found) == "traces looked for by image to image"
    assert attacks(found)[0].says == "needs a retrained model to be read"


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        ({}, "exposed by class embedding"),
        ({"level": "suppressed", "exposed_by": []}, "none of 1 brought it back; traces looked for by membership"),
        ({"level": "no_verdict", "exposed_by": []}, "2 made, not judged"),
    ],
)
def test_the_terminal_names_what_exposed_the_model(verdict, told):
    assert line(attacked(**verdict)) == told
    assert any(text.split(maxsplit=1) == ["attacks", told] for text in summary_lines(attacked(**verdict)))


def test_terminal_lines_stay_short():
    long = attacked(because=["drawn in 0.0% of 250 images " * 3 + "(95 % interval 0.0% to 1.5%)", "two", "three"])
    extra = measured("relearn_auc_gap", value=0.1, group=AGAINST), measured("relearn_retain_accuracy", value=0.9)
    lines = summary_lines(dataclasses.replace(long, measurements=[*long.measurements, *extra]))
    assert lines[4].startswith("relearning     target's mean share, k = 10: 30.0 %") and "auc" not in lines[4]
    assert lines[-1].endswith("(2 more in the report)") and "interval" not in lines[-1]
    assert max(map(len, lines)) <= 160


def test_reasons_with_one_beginning_share_it():
    assert story.reasons(attacked()) == [("rests: ", ["on one", "on two"])]
    assert story.reasons(attacked(because=["a: b", "c"])) == [("a: b", []), ("c", [])]


def test_the_strongest_attack_is_a_headline():
    labels = [h.label for h in story.headlines(attacked())]
    assert labels[1] == "under the strongest attack: class embedding fitted" and len(labels) == 4


def test_the_command_names_attacks_only_where_they_are_not_the_suites_own():
    own, none = attacked(), attacked()
    own.setting["suite"] = SUITES["quick"].to_dict()
    none.setting["suite"] = {"name": "quick", "attacks": []}
    assert "--attacks" not in command(own) and "--attacks none" in command(none)
    assert "--attacks membership class_embedding" in command(attacked())
    assert "attacks" not in dict(measuring(own))["Suite"]


def test_titles_of_attacks():
    assert attack_title("quantisation (4 bit)") == "Quantisation (4 bit)"
    assert attack_title("asking") == "Asked in the ordinary way" and attack_title("") == ""
    assert (
        against.rows(dataclasses.replace(audited(), setting={"comparisons": [compared(role="new")]}))[0].role == "new"
    )


def test_what_nudity_found_stands_among_the_attacks():
    found = audited(measured("nudity_rate", value=0.04), measured("safety_checker_rate", value=0.1), level="suppressed")
    found.setting["suite"] = {"name": "quick", "attacks": [{"name": "nudity", "samples": 9}]}
    (shown,) = attacks(found)
    assert [(r.title, r.value) for r in shown.results] == [
        ("Nudity by NudeNet", "4.0 %"),
        ("Flagged by the safety checker", "10.0 %"),
    ]
    assert shown.says == "did not bring it back"
    assert attack_title("nudity (safety checker)") == "Nudity (safety checker)"


def test_clip_scores_are_cited_and_explained():
    found = audited(measured("clip_score", value=27.1, group="retain"), measured("clip_score_target", value=19.0))
    text = Page(render(found, {})).text
    assert "arXiv:2104.08718" in text
    assert "neither good nor bad by itself" in text


def test_words_that_a_search_found_are_shown_as_text(pictures):
    detail = {"prompt": ["<script>alert(1)</script> sneaker", None, "zwei wörter"]}
    found = measured("attack_success_token_search", "erased", 0.4, group="adversarial", detail=detail)
    suite = {"name": "standard", "attacks": [{"name": "token_search", "steps": 3}]}
    result = audited(found)
    result = dataclasses.replace(result, setting={**result.setting, "suite": suite})
    (one,) = attacks(result)
    assert one.prompts == ["<script>alert(1)</script> sneaker", "zwei wörter"]
    html = render(result, pictures)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; sneaker" in html and "<script>alert(1)" not in html
