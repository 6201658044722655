"""Numbers, the table, the terminal lines and the model card."""

from __future__ import annotations

import dataclasses
import shlex

import pytest
import yaml
from report_samples import audited, full_measurements, measured

from erasediff.report.card import model_card
from erasediff.report.facts import command, making, measuring
from erasediff.report.markdown import code, escaped
from erasediff.report.numbers import duration, interval, number, percent
from erasediff.report.tables import markdown, summary_lines, table
from erasediff.report.vocabulary import target_phrase


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [
        (0.0123, 3, "0.012"),
        (0, 3, "0"),
        (None, 3, "–"),
        (float("nan"), 3, "NaN"),
        (float("-inf"), 3, "−∞"),
        (0.0004, 3, "0.0004"),
        (3.2e-6, 3, "3.2e-6"),
        (1234.5, None, "1,234"),
        (12.345, None, "12.3"),
        (-0.5, None, "-0.500"),
    ],
)
def test_number(value, places, text):
    assert number(value, places) == text


def test_intervals_percents_and_durations():
    assert interval(0.004, 0.03, 3) == "[0.004, 0.030]"
    assert interval(None, 0.03) == interval(0.1, float("nan")) == ""
    assert [percent(x) for x in (0, 1, 0.012, 0.0001, 0.99999)] == [
        "0 %",
        "100 %",
        "1.2 %",
        "under 0.1 %",
        "over 99.9 %",
    ]
    assert [duration(s) for s in (8.44, 200, 7500)] == ["8.4 s", "3 min 20 s", "2 h 05 min"]


def test_target_in_words():
    assert target_phrase("class:7") == "class 7"
    assert target_phrase("class:7, concept:Van Gogh, late") == "class 7 and the concept “Van Gogh, late”"
    assert target_phrase("odd") == "odd" and target_phrase("") == "the target"


def test_rows_in_reading_order_with_the_subjects_as_columns():
    found = audited(
        measured("wobble", group="exotic"), measured("relearn_k10"), measured("relearn_k5"), *full_measurements()
    )
    model = table(found)
    assert model.subjects == ["base", "erased", "retrained", "control"]
    assert [g.title for g in model.groups] == [
        "Forgetting", "What it kept", "Relearning", "Distance to the base model", "Exotic",
    ]  # fmt: skip
    assert [r.name for r in model.groups[2].rows] == ["relearn_k5", "relearn_k10"]
    first = model.groups[0].rows[0]
    assert (first.name, first.arrow, first.n) == ("forget_rate", "↓", "250")
    assert [c.value for c in first.cells] == ["0.976", "0.012", "0.008", "0.884"]
    assert [c.value for c in model.groups[-1].rows[0].cells] == ["–", "0.500", "–", "–"]


def test_n_stands_in_the_cells_where_it_differs():
    (group,) = table(audited(measured("forget_rate"), measured("forget_rate", "base", n=9))).groups
    assert group.rows[0].n == "" and {c.n for c in group.rows[0].cells} == {"250", "9"}


def test_markdown_keeps_its_columns_whatever_a_name_holds():
    text = markdown(audited(measured("a|b\n<script>", "su|b"), *full_measurements()))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "<script>" not in text and "| 0.012 [0.002, 0.022] |" in text
    assert markdown(audited()) == "Nothing was measured.\n"


def test_summary_says_the_main_things_in_seven_lines(result):
    lines = summary_lines(result)
    assert [line.split()[0] for line in lines] == [
        "forgetting", "unconditional", "retention", "distance", "relearning", "attacks", "verdict",
    ]  # fmt: skip
    assert "1.2 %" in lines[0] and "base 97.6 %" in lines[0] and "class:7" in lines[0]
    assert "worst class 9: 90.0 %" in lines[2] and "too little was tried" in lines[6]
    assert all("\n" not in line for line in lines)
    assert sum("not measured" in line for line in summary_lines(audited())) == 5


def test_the_command_is_put_together_and_quoted(result):
    words = shlex.split(command(result))
    assert words[:3] == ["erasediff", "audit", "runs/my erased"] and words[3:5] == ["--base", "runs/base"]
    assert words[words.index("--target") + 1] == "class:7" and words[words.index("--seed") + 1] == "3"
    recorded = dataclasses.replace(result, setting={"command": ["erasediff", "audit", "a b"]})
    spoken = dataclasses.replace(result, setting={**result.setting, "data": {"spec": "prompts"}})
    assert "--data" in command(result) and "--data" not in command(spoken)
    assert command(recorded) == "erasediff audit 'a b'" and command(dataclasses.replace(result, setting={})) == ""


def test_facts_name_the_instruments_and_tolerate_gaps(result):
    assert dict(measuring(result))["Judge"] == "small-cnn; right on 98.0 % of 360 held-out images"
    assert making({}) == [] and making({"method": None, "cost": {}, "steps": None}) == []
    told = dict(making({"method": {"name": "m", "fields": {"eta": 0.1, "on": True}}, "cost": {"seconds": 70}}))
    assert told == {"Method": "m", "Settings": "eta 0.1, on yes", "Cost": "1 min 10 s"}


def test_nothing_foreign_is_read_as_markup():
    assert escaped("# <b>*x*</b>\n- y_z [a](b)") == r"\# &lt;b&gt;\*x\*&lt;/b&gt; - y\_z \[a\](b)"
    assert escaped("1. one") == r"1\. one"
    assert code("runs/a_b") == "`runs/a_b`" and code("a`b<i>") == r"a\`b&lt;i&gt;"


RUN = {
    "schema": 1,
    "kind": "erase",
    "target": ["class:7"],
    "method": {"name": "erasediff", "fields": {"eta": 0.1}, "paper": "arXiv:2401.05779"},
    "base_model": {"source": "runs/base", "sha256": {}},
    "data": {"spec": "digits", "sha256": "ab"},
    "seed": 0,
    "steps": 120,
    "cost": {"seconds": 14.2, "forward_equivalents": 720},
    "stopped": {"reason": "max_train_steps", "detail": None},
}


def front_matter(card: str) -> dict:
    begin, yaml_text, _ = card.split("---\n", 2)
    assert begin == ""
    read = yaml.safe_load(yaml_text)
    assert isinstance(read, dict)
    return read


def test_card_of_an_audited_run(result):
    card = model_card(RUN, result)
    assert front_matter(card)["library_name"] == "diffusers"
    assert {"erasediff", "machine-unlearning"} <= set(front_matter(card)["tags"])
    for part in (
        "# A diffusion model without class 7",
        "from_pretrained",
        "0.012 [0.002, 0.022]",
        "## Limits",
        "14.2 s",
    ):
        assert part in card
    assert "https://arxiv.org/abs/2401.05779" in card and "https://huggingface" not in card


def test_card_without_audit_or_of_training_or_of_nothing():
    assert "Nothing yet" in model_card(RUN, None)
    trained = model_card({"kind": "train", "target": []}, None)
    assert "machine-unlearning" not in trained and "## Limits" not in trained
    assert "never" not in trained and "retrained model" in model_card({"kind": "train", "target": ["class:7"]}, None)
    assert front_matter(model_card({}, None))["library_name"] == "diffusers"


def test_card_names_a_base_model_of_the_hub_only():
    hub = {**RUN, "base_model": {"id": "google/ddpm-cifar10-32"}}
    assert front_matter(model_card(hub, None))["base_model"] == "google/ddpm-cifar10-32"
    odd = {**RUN, "base_model": {"id": "a/b\n---\nevil: 1"}}
    assert "base_model" not in front_matter(model_card(RUN, None)) and "evil" not in front_matter(model_card(odd, None))


def test_card_escapes_what_users_wrote():
    evil = "x\n---\n# Title\n<script>alert(1)</script> | [a](javascript:b)"
    run = {
        **RUN,
        "target": [evil],
        "method": {"name": evil, "fields": {evil: evil}, "paper": evil},
        "data": {"spec": evil},
    }
    card = model_card(run, audited(measured("forget_rate"), target=evil, because=[evil]))
    assert "<script" not in card and "\n# Title" not in card and "[a](" not in card
    assert front_matter(card)["tags"] == ["erasediff", "diffusion", "machine-unlearning", "concept-erasure"]
