"""The deletion record: what it holds, what it withholds, and its page."""

from __future__ import annotations

import hashlib
import json

import pytest
from report_samples import Page, attacked, audited, measured

from erasediff.auditing.result import LEVELS
from erasediff.errors import BadInput
from erasediff.report.record import deletion_record, render_record
from erasediff.report.story import answer

NASTY = "<script>alert(1)</script>\"'&{{ 777 * 7 }}"
RUN = {
    "method": {"name": "erasediff", "fields": {"eta": 0.3}, "paper": "arXiv:2401.05779"},
    "base_model": {"source": "/home/alice/base", "sha256": {"unet/w": "b" * 64}},
    "weights": {"unet/w": "e" * 64},
    "plan": {"forget_samples": 144},
    "data": {"spec": "/home/alice/pictures", "sha256": "ab"},
    "target": ["samples:alice.txt"],
    "seed": 5,
    "steps": 80,
    "cost": {"seconds": 18.4},
}


def made(result=None, run=RUN, **given):
    return deletion_record(result or attacked(), run, **{"request": "letter 17", "date": "2026-01-31", **given})


def test_it_holds_what_an_assessment_needs():
    record = made(audit_sha256="cd" * 32)
    assert record["schema"] == 1 and record["date"] == "2026-01-31" and record["request"] == "letter 17"
    assert record["method"]["fields"] == {"eta": 0.3} and record["seeds"] == {"erasing": 5, "audit": 3}
    assert record["models"] == {"before": {"unet/w": "b" * 64}, "after": {"unet/w": "e" * 64}}
    assert record["verdict"]["level"] == "superficial" and record["verdict"]["exposed_by"] == ["class_embedding"]
    assert record["target"]["samples"] == 144 and record["audit_sha256"] == "cd" * 32
    assert {"name", "subject", "value", "low", "high", "n"} == set(record["evidence"][0])
    assert not any(e["name"].endswith("_gap") for e in record["evidence"]) and len(record["comparisons"]) == 4
    assert set(record["signature"].values()) == {""}


def test_samples_and_concepts_are_described_by_hash_alone():
    target = "class:7, samples:alice.txt, concept:Alice, late"
    record = made(audited(measured("forget_rate_faithful"), target=target))
    digests = [hashlib.sha256(t.encode()).hexdigest() for t in ("class:7", "samples:alice.txt", "concept:Alice, late")]
    assert [p["sha256"] for p in record["target"]["parts"]] == digests
    assert [p["named"] for p in record["target"]["parts"]] == ["class:7", "", ""]
    for text in (json.dumps(record), render_record(record)):
        assert "alice" not in text.lower()


@pytest.mark.parametrize("level", LEVELS)
def test_its_statement_says_no_more_than_the_verdict(level):
    record = made(attacked(level=level))
    text = json.dumps(record) + render_record(record)
    assert "certif" not in text.lower() and "{attacks}" not in text
    assert record["statement"] in Page(render_record(record)).text
    assert "no attack tried to" in made(audited(level="suppressed"))["statement"]


def test_only_attacks_that_try_to_bring_the_target_back_are_said_to_have_failed():
    found = attacked(level="suppressed", exposed_by=[])  # of its two attacks membership looks for traces only
    assert "the one attack that tries to bring it back failed" in made(found)["statement"]
    found.setting["suite"]["attacks"].append({"name": "retain_training"})
    assert "none of the 2 attacks that try to bring it back succeeded" in made(found)["statement"]
    found.setting["suite"]["attacks"] = [{"name": "membership"}]
    assert "no attack tried to bring it back" in made(found)["statement"]


@pytest.mark.parametrize(("exposed_by", "attack"), [(["asking"], False), (["asking", "class_embedding"], True)])
def test_a_target_that_is_drawn_when_asked_for_is_not_said_to_stay_away(exposed_by, attack):
    found = attacked(exposed_by=exposed_by)
    for said in (made(found)["statement"], answer(found)):
        assert "draws it more often than" in said and "{" not in said
        assert "no longer draws" not in said and "does not draw" not in said
        assert ("attack" in said) == attack
    assert "does not draw the target when asked" in made(attacked())["statement"]


def test_fields_of_a_method_that_name_files_are_left_out():
    fields = {"fisher_file": "runs/alice.safetensors", "eta": 0.3, "rule": "/home/alice/x", "other": "C:\\alice"}
    record = made(run={**RUN, "method": {"name": "selective_amnesia", "fields": fields}})
    assert record["method"]["fields"] == {"eta": 0.3}
    assert "alice" not in json.dumps(record) + render_record(record)


def test_every_weight_file_counts():
    """Text models keep encoders beside the denoiser, and those are the same before and after."""
    found, files = attacked(), {"text_encoder/w": "c" * 64, "unet/w": "e" * 64}
    found.setting["model_weights"] = {"erased": files, "base": {**files, "unet/w": "b" * 64}, "retrained": files}
    record = made(found, {**RUN, "weights": files})
    assert record["models"]["after"] == record["models"]["retrained"] == files
    with pytest.raises(BadInput, match="not those that were audited"):
        made(found, {**RUN, "weights": {**files, "unet/w": "f" * 64}})
    with pytest.raises(BadInput, match="not those that were audited"):
        made(found, {**RUN, "weights": {"unet/w": "e" * 64}})


@pytest.mark.parametrize("signature", [None, {"name": "A"}, {"role": None}])
def test_a_signature_that_is_partly_there_leaves_lines_for_the_rest(signature):
    page = Page(render_record({"signature": signature}))
    assert all(label in page.text for label in ("Name", "Role", "Date", "Signature"))


def test_a_record_of_two_different_models_is_refused():
    with pytest.raises(BadInput, match="not those that were audited"):
        made(run={**RUN, "weights": {"unet/w": "f" * 64}})
    with pytest.raises(BadInput, match="ISO 8601"):
        made(date="yesterday")


def test_gaps_and_missing_numbers_leave_valid_json():
    nan = float("nan")
    found = audited(measured("forget_rate_faithful", value=nan, low=None, high=nan))
    found.setting["comparisons"] = [{"difference": nan}]
    record = deletion_record(found, None, request=None, date="2026-01-31T10:00:00")
    read = json.loads(json.dumps(record, allow_nan=False))
    assert read["evidence"][0]["value"] is None and read["comparisons"][0]["difference"] is None
    assert "Signature" in Page(render_record(read)).text and "Signature" in Page(render_record({})).text


def test_its_page_is_complete_escaped_and_without_pictures():
    odd = attacked(because=[NASTY], exposed_by=[NASTY], not_tested=[{"what": NASTY, "why": NASTY}])
    odd.setting["comparisons"] = [{"attack": NASTY, "outcome": NASTY}]
    run = {**RUN, "method": {"name": NASTY, "fields": {NASTY: NASTY}, "paper": NASTY}}
    html = render_record(made(odd, run, request=NASTY))
    page = Page(html)
    assert "<script" not in html and "5439" not in page.text and page.text.count("<script>alert(1)</script>") >= 8
    assert not page.of("img") and not page.of("svg") and not page.of("link") and not page.of("a")
    assert "http" not in html and "url(" not in html and html == render_record(made(odd, run, request=NASTY))
    assert all(label in page.text for label in ("Name", "Role", "Date", "Signature"))
