"""A concept is audited in any text-to-image model without one image of it; and nobody calls that a verdict."""

import json
from dataclasses import replace

import pytest
from tests.auditing import _tiny_clip
from tests.families import _tiny_text

import erasediff
from erasediff import families
from erasediff.api.audit import audit
from erasediff.auditing.attacks import ATTACKS
from erasediff.auditing.suites import SUITES
from erasediff.cli.main import main
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY

SMALL = {"forget": 6, "per_class": 2, "unconditional": 4, "num_inference_steps": 2, "resamples": 3}
PRUNE = ATTACKS["pruning"](shares=(0.5,), samples=6)
SUITE = replace(SUITES["quick"], **SMALL, sampling_seeds=1, attacks=(PRUNE,))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("spoken")
    _tiny_clip.saved(root / "clip", 0)
    families.adopt(_tiny_text.stable_diffusion()).save(root / "model")
    return root


def test_figures_are_given_and_no_verdict(place):
    found = audit(place / "model", target="concept:dog", suite=SUITE, clip=place / "clip", quiet=True)
    assert found.verdict.level == "no_verdict"
    assert any("no base model" in s for s in found.verdict.because)
    rate = found.result.find("forget_rate")
    assert rate.n == 6 and found.result.find("clip_score_target") is not None
    assert found.result.find("attack_success_pruned_50") is not None
    for name in ("forget_rate_faithful", "frechet_distance", "precision"):  # nothing real to compare with
        assert found.result.find(name) is None
    assert "CLIP zero-shot" in found.result.setting["classifier"]["name"]


def test_with_a_base_the_judge_is_still_untried(place):
    suite = replace(SUITE, attacks=())
    found = audit(
        place / "model", target="concept:dog", base=place / "model", suite=suite, clip=place / "clip", quiet=True
    )
    assert found.verdict.level == "no_verdict"
    assert any("tested on no real image; give data" in s for s in found.verdict.because)
    assert found.result.find("image_change_forget").value == 0


def test_what_needs_images_is_listed_with_the_reason(place):
    wanted = tuple(ATTACKS[n]() for n in ("membership", "text_embedding", "relearning", "extraction"))
    asked = {"suite": replace(SUITE, attacks=wanted), "clip": place / "clip", "quiet": True}
    found = audit(place / "model", target="concept:dog", **asked)
    said = {row["what"]: row["why"] for row in found.verdict.not_tested}
    for name in ("membership", "text embedding", "relearning", "extraction"):
        assert said[name] == "there are no real images of the target; give data"


def test_without_clip_there_is_no_judge(place):
    found = audit(place / "model", target="concept:dog", suite=replace(SUITE, attacks=()), quiet=True)
    assert any("no judge" in s for s in found.verdict.because)
    assert found.result.find("forget_rate") is None and found.result.find("vendi_score") is not None


def test_classes_and_models_asked_by_number_need_data(place):
    with pytest.raises(BadInput, match="no data given"):
        erasediff.audit(place / "model", target="class:dog", quiet=True)
    with pytest.raises(BadInput, match="no data given"):
        erasediff.audit(TINY["unet2d"]().pipeline(), target="concept:dog", quiet=True)


def test_the_command_line(place, tmp_path, monkeypatch):
    monkeypatch.setitem(SUITES, "quick", replace(SUITE, attacks=()))
    line = ["audit", str(place / "model"), "--target", "concept:dog", "--clip", str(place / "clip"), "--quiet"]
    assert main([*line, "--output_dir", str(tmp_path / "audit")]) == 0
    record = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert record["verdict"]["level"] == "no_verdict" and record["setting"]["data"]["spec"] == "prompts"
    assert (tmp_path / "audit" / "report.html").stat().st_size > 1000
