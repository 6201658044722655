"""An audit end to end: answers are kept, a second one asks nothing, and what was not attacked is said."""

import json
import re

import pytest
from tests.conftest import make_squares

import erasediff
from erasediff.api.judges import judge_for
from erasediff.auditing import drawing
from erasediff.auditing.attacks.membership import Membership
from erasediff.auditing.attacks.relearning import Relearning
from erasediff.auditing.result import LEVELS
from erasediff.data.images import build
from erasediff.errors import BadInput, RequirementFailed
from erasediff.families.tiny import TINY


@pytest.fixture
def models(small_audit):
    return {name: TINY["unet2d"](seed=i).pipeline() for i, name in enumerate(("erased", "base", "retrained"))}


def audited(models, squares, place=None, **changes):
    asked = {"target": "class:1", "data": squares, "quiet": True, "output_dir": place, **changes}
    return erasediff.audit(models["erased"], base=models["base"], retrained=models["retrained"], **asked)


@pytest.fixture
def counted(monkeypatch):
    """How often samples were drawn and attacks were made."""
    asked = []

    def count(owner, name):
        real = getattr(owner, name)

        def told(*given, **options):
            asked.append(name)
            return real(*given, **options)

        monkeypatch.setattr(owner, name, told)

    count(drawing, "images")
    count(Membership, "run")
    count(Relearning, "run")
    return asked


def test_a_second_audit_asks_nothing_and_says_the_same(models, squares, tmp_path, counted):
    first = audited(models, squares, tmp_path / "a")
    assert counted
    written = (tmp_path / "a" / "audit.json").read_text()
    counted.clear()
    second = audited(models, squares, tmp_path / "a")
    assert counted == []
    assert second.result == first.result
    assert (tmp_path / "a" / "audit.json").read_text() == written
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".pkl", ".pt", ".bin", ".pickle")]


def test_a_stopped_audit_goes_on(models, squares, tmp_path, counted, monkeypatch):
    def stop(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(Relearning, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            audited(models, squares, tmp_path / "a")
    assert not (tmp_path / "a" / "audit.json").exists()
    counted.clear()
    done = audited(models, squares, tmp_path / "a")
    assert counted == ["run", "run"]  # relearning, of the erased and the retrained model
    assert done.result.find("relearn_k10") is not None


def test_one_attack_more_asks_only_that(models, squares, tmp_path, counted):
    audited(models, squares, tmp_path / "a", attacks=["membership"], cache_dir=tmp_path / "cache")
    counted.clear()
    done = audited(models, squares, tmp_path / "b", attacks=["membership", "relearning"], cache_dir=tmp_path / "cache")
    assert counted == ["run", "run"]  # of the erased and the retrained model
    assert {e["what"] for e in done.verdict.not_tested} >= {"inversion", "extraction"}


def test_another_question_does_not_replace_an_audit(models, squares, tmp_path):
    audited(models, squares, tmp_path / "a", attacks=[])
    with pytest.raises(BadInput, match="asked something else"):
        audited(models, squares, tmp_path / "a", attacks=[], seed=1)
    audited(models, squares, tmp_path / "a", attacks=[], seed=1, overwrite=True)
    assert json.loads((tmp_path / "a" / "audit.json").read_text())["setting"]["seed"] == 1


def test_half_precision_is_recorded_and_its_answers_are_its_own(models, tmp_path, counted):
    squares = make_squares(120)  # enough held-out ones for membership
    place, kept = tmp_path / "a", tmp_path / "cache"
    full = audited(models, squares, place, attacks=["membership"], cache_dir=kept)
    setting = json.loads((place / "audit.json").read_text())["setting"]
    # What was asked says nothing of it: an audit from before there was a choice may be repeated.
    assert setting["mixed_precision"] == "no" and "mixed_precision" not in setting["request"]
    with pytest.raises(BadInput, match="asked something else"):
        audited(models, squares, place, attacks=["membership"], cache_dir=kept, mixed_precision="bf16")
    counted.clear()
    half = audited(models, squares, tmp_path / "b", attacks=["membership"], cache_dir=kept, mixed_precision="bf16")
    assert counted
    setting = json.loads((tmp_path / "b" / "audit.json").read_text())["setting"]
    assert setting["mixed_precision"] == setting["request"]["mixed_precision"] == "bf16"
    assert "--mixed_precision bf16" in half.html() and "--mixed_precision no" in full.html()
    assert half.result.find("mia_auc_loss") == full.result.find("mia_auc_loss")
    assert half.result.find("frechet_distance") != full.result.find("frechet_distance")
    counted.clear()
    audited(models, squares, tmp_path / "c", attacks=["membership"], cache_dir=kept)
    assert counted == []


def test_an_unknown_precision_is_refused_before_anything_is_loaded(squares):
    with pytest.raises(BadInput, match=r"mixed_precision 'half' is unknown.*; allowed: no, bf16, fp16"):
        erasediff.audit("nowhere", target="class:1", data=squares, mixed_precision="half")


def test_the_verdict_has_its_form(models, squares, tmp_path):
    audited(models, squares, tmp_path / "a")
    verdict = json.loads((tmp_path / "a" / "audit.json").read_text())["verdict"]
    assert set(verdict) == {"goal", "level", "because", "exposed_by", "not_tested"}
    assert verdict["level"] in LEVELS
    assert all(set(entry) == {"what", "why"} for entry in verdict["not_tested"])


def test_gaps_can_be_required(models):
    squares = make_squares(120)
    with pytest.raises(RequirementFailed, match="relearn_auc_gap"):
        audited(models, squares, require=["relearn_auc_gap<=-2"])
    found = audited(models, squares, require=["relearn_auc_gap<=1", "mia_auc_gap<=1"])
    gap = found.result.find("relearn_auc_gap")
    assert gap.value == found.result.find("relearn_k10_gap").value


def test_without_a_base_there_is_no_verdict(models, squares):
    found = erasediff.audit(models["erased"], target="class:1", data=squares, quiet=True, attacks=[])
    assert found.verdict.level == "no_verdict"
    assert any("no base model" in s for s in found.verdict.because)


@pytest.mark.parametrize("attacks", [["membrship"], ["relearning", "x"]])
def test_unknown_attacks(models, squares, attacks):
    with pytest.raises(BadInput, match=r"attack .* is unknown.*allowed: .*none"):
        audited(models, squares, attacks=attacks)


def test_what_will_be_measured_is_said_before_it_is(models, squares):
    said = []
    audited(models, squares, say=said.append)
    assert "3 models (erased, base, retrained), suite quick" in said[0]
    assert re.search(r"images pass through a denoiser, about [\d.]+ (s|min) .*here", said[0])


def test_a_request_gets_a_record(squares, small_audit, tmp_path):
    base = TINY["unet2d"]().pipeline()
    few = {"max_train_steps": 2, "train_batch_size": 4, "checkpointing_steps": 0, "quiet": True}
    erasediff.erase(base, "class:1", squares, output_dir=tmp_path / "run", **few)
    asked = {"data": squares, "base": base, "quiet": True, "attacks": [], "request": "ticket <4711>"}
    erasediff.audit(tmp_path / "run", output_dir=tmp_path / "a", **asked)
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    assert record["request"] == "ticket <4711>"
    assert record["verdict"]["level"] in LEVELS
    assert "ticket &lt;4711&gt;" in (tmp_path / "a" / "record.html").read_text()
    with pytest.raises(BadInput, match="give an output_dir"):
        erasediff.audit(tmp_path / "run", **asked)


def test_too_few_images_for_a_judge_are_refused_with_what_to_do(squares):
    few = build("some", squares.images[:3, 0].numpy(), squares.labels[:3].numpy())
    said = r"some has too few images to train a judge on: 3, of which 0 are held out .*give --data with more, draw more"
    with pytest.raises(BadInput, match=said):
        judge_for(None, few, 0, quiet=True)
