"""Audits with CLIP: scores of models asked in words, the zero-shot judge, features, and what is kept or refused."""

import json

import numpy as np
import pytest
import torch
from tests.auditing import _tiny_clip
from tests.families import _tiny_text

import erasediff
from erasediff.auditing.classifier import train_classifier
from erasediff.auditing.clip import Clip
from erasediff.auditing.drawing import Subject
from erasediff.cli.main import main
from erasediff.data.images import build
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY

CAPTIONS = ["a red hat", "a hat on a cat", "a chair", "two cats"]
WORDS = ("clip_score", "clip_score_target", "clip_score_change", "clip_score_target_change")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    place = tmp_path_factory.mktemp("clips")
    return [_tiny_clip.saved(place / name, seed) for seed, name in enumerate(("one", "two"))]


@pytest.fixture(scope="module")
def captioned():
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    return build("captioned", images, np.arange(40) % 4, class_names=CAPTIONS)


@pytest.fixture(scope="module")
def asked(captioned):
    base, erased = _tiny_text.stable_diffusion(), _tiny_text.stable_diffusion()
    with torch.no_grad():
        erased.unet.conv_out.weight.mul_(1.5)
    floats, labels = captioned.floats(slice(None)), captioned.labels
    held_out = (floats[:8], labels[:8])
    judge = train_classifier(floats, labels, num_classes=4, held_out=held_out, seed=0, steps=4, class_names=CAPTIONS)
    given = {
        "target": "concept:hat",
        "classifier": judge,
        "base": base,
        "attacks": ["none"],
        "prompt_template": "my {}",
    }
    return {"model": erased, "data": captioned, "quiet": True, **given}


@pytest.fixture
def drawn(monkeypatch):
    """Which subjects drew samples."""
    names = []
    plain = Subject.samples.func

    def samples(self):
        names.append(self.name)
        return plain(self)

    monkeypatch.setattr(Subject.samples, "func", samples)
    return names


def test_scores_are_measured_of_models_asked_in_words(asked, clips, small_audit, tmp_path, drawn):
    plain = erasediff.audit(**asked, output_dir=tmp_path / "plain", cache_dir=tmp_path / "cache")
    assert not any(m.name in WORDS for m in plain.measurements)
    drawn.clear()
    found = erasediff.audit(**asked, clip=clips[0], output_dir=tmp_path / "one", cache_dir=tmp_path / "cache")
    assert sorted(drawn) == ["base", "erased"]  # drawn again, once; nothing else is asked again
    score, target, change, target_change = (found.result.find(name) for name in WORDS)
    assert (score.n, target.n) == (12, 20)
    base = found.result.find("clip_score", "base")
    assert change.value == pytest.approx(score.value - base.value)
    assert change.value != 0
    assert target_change.detail["this"] == target.value
    assert found.result.find("clip_score_change", "base") is None
    clip = Clip.load(clips[0])
    assert score.detail == {"clip": clip.title}
    assert found.result.setting["clip"] == {"name": "one", "sha256": clip.fingerprint}
    report = (tmp_path / "one" / "report.html").read_text()
    assert "CLIP score" in report
    assert "--clip" in report
    drawn.clear()
    again = erasediff.audit(**asked, clip=clips[0], output_dir=tmp_path / "one", cache_dir=tmp_path / "cache")
    assert drawn == []
    assert again.result.find("clip_score") == score
    other = erasediff.audit(**asked, clip=clips[1], output_dir=tmp_path / "two", cache_dir=tmp_path / "cache")
    assert sorted(drawn) == ["base", "erased"]
    assert other.result.find("clip_score").value != score.value


def test_scores_are_of_the_prompts_that_were_asked(asked, clips, small_audit):
    """The slow way: every image with its own prompt."""
    from erasediff.api.subjects import Subjects
    from erasediff.auditing.suites import SUITES

    subjects = Subjects.load(asked["model"], {}, "concept:hat", asked["data"], "my {}")
    clip = Clip.load(clips[0])
    given = {"goal": "data", "suite": SUITES["quick"], "features": "pixels", "guidance_scale": 1.5, "seed": 0}
    subject = Subject("erased", subjects.models["erased"], subjects.question(judge=None, clip=clip, **given))
    for kind, captions in (("forget", CAPTIONS[:2]), ("retain", CAPTIONS[2:])):
        slow = []
        for row, image in enumerate(subject.samples[kind]):
            text, seen = clip.texts([f"my {captions[row % 2]}"])[0], clip.images(image[None])[0]
            slow.append(100 * max(float(text @ seen / seen.norm()), 0.0))
        assert np.allclose(subject.clip_scores[kind], slow, atol=1e-4)


def test_the_zero_shot_judge_and_its_features(asked, clips, small_audit, tmp_path):
    given = {**asked, "clip": clips[0], "classifier": "clip", "features": "clip"}
    found = erasediff.audit(**given, output_dir=tmp_path / "a")
    judge = found.result.setting["classifier"]
    assert judge["name"].startswith("CLIP zero-shot, one (sha256 ")
    assert "asked 'my a red hat' and 3 more" in judge["name"]
    assert judge["held_out_n"] == int(asked["data"].held_out.sum())
    # Random weights know nothing of hats: as with any weak judge there is no verdict.
    assert judge["held_out_accuracy"] < 0.9
    assert found.verdict.level == "no_verdict"
    assert "too weak" in " ".join(found.verdict.because)
    title = Clip.load(clips[0]).title
    assert found.result.find("frechet_distance").detail["features"] == f"clip {title}"
    assert found.result.setting["features"] == "clip"
    assert not (tmp_path / "a" / "classifier").exists()  # the user has it
    record = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert record["setting"]["request"]["clip"] == str(clips[0])


def test_other_weights_are_other_features(asked, clips, small_audit, tmp_path):
    found = [
        erasediff.audit(**asked, clip=clip, features="clip", cache_dir=tmp_path / "cache").result for clip in clips
    ]
    assert found[0].find("frechet_distance").value != found[1].find("frechet_distance").value
    assert found[0].find("forget_rate").value == found[1].find("forget_rate").value


def test_a_model_asked_by_number_has_a_judge_but_no_scores(squares, clips, small_audit):
    model = TINY["unet2d"]().pipeline()
    found = erasediff.audit(
        model, target="class:1", data=squares, clip=clips[0], classifier="clip", attacks=["none"], quiet=True
    )
    assert "asked 'a photo of a 0' and 3 more" in found.result.setting["classifier"]["name"]
    assert found.result.find("forget_rate") is not None
    assert not any(m.name in WORDS for m in found.measurements)


@pytest.mark.parametrize("flag", ["--classifier", "--features"])
def test_clip_is_named_but_not_given(flag, capsys):
    assert main(["audit", "nowhere", flag, "clip", "--output_dir", "out"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{flag[2:]} clip needs a CLIP model, and none is fetched by default" in line


def test_a_prompt_that_clip_would_cut_is_refused_before_anything_is_drawn(asked, tmp_path, drawn, small_audit):
    place = _tiny_clip.saved(tmp_path / "short")
    record = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps({**record, "model_max_length": 6}))
    with pytest.raises(BadInput, match="and CLIP short reads 6: it would be cut"):
        erasediff.audit(**asked, clip=place)
    assert drawn == []
