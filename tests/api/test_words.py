"""Models asked in words: classes and captions become prompts, a concept is every caption that says it."""

import json

import numpy as np
import pytest
import torch
from tests.families import _tiny_text

import erasediff
from erasediff.data.images import build
from erasediff.data.targets import Concept, split
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY

FEW = {"max_train_steps": 2, "train_batch_size": 4, "checkpointing_steps": 0, "quiet": True}
CAPTIONS = ["a red hat", "a hat on a cat", "a chair", "two cats"]


@pytest.fixture(scope="module")
def pipeline():
    return _tiny_text.stable_diffusion()


@pytest.fixture(scope="module")
def captioned(pipeline):
    """80 colour images in four captions, as large as the miniature draws."""
    side = pipeline.unet.config.sample_size * 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    images = np.random.default_rng(0).integers(0, 256, (80, side, side, 3), dtype=np.uint8)
    return build("captioned", images, np.arange(80) % 4, class_names=CAPTIONS)


@pytest.mark.parametrize(
    ("text", "classes"), [("hat", (0, 1)), ("HAT", (0, 1)), ("cat", (1,)), ("a hat", (1,)), ("red hat", (0,))]
)
def test_a_concept_is_every_caption_that_says_it(captioned, text, classes):
    found = split([Concept(text)], captioned)
    assert found.classes == classes
    assert set(captioned.labels[found.forget].tolist()) == set(classes)
    assert set(captioned.labels[found.retain].tolist()) == {0, 1, 2, 3} - set(classes)


def test_a_concept_that_no_caption_says(captioned):
    with pytest.raises(BadInput, match=r"no class or caption says 'chiar' .did you mean a chair"):
        split([Concept("chiar")], captioned)


@pytest.mark.parametrize("given", [{"anchor": "a cap"}, {}, {"method": "salun"}, {"method": "fine_tune"}])
def test_a_concept_is_erased_and_the_prompts_stand_in_the_record(pipeline, captioned, tmp_path, given):
    run = erasediff.erase(
        pipeline, "concept:hat", captioned, prompt_template="my {}", output_dir=tmp_path / "run", **given, **FEW
    )
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["asked"] == {"prompt_template": "my {}", "anchor": given.get("anchor")}
    assert run.model.class_names == tuple(f"my {c}" for c in CAPTIONS)
    if "method" not in given:
        assert record["method"]["fields"]["forget_target"] == ("anchor" if "anchor" in given else "relabel")
    before, after = pipeline.unet.state_dict(), run.pipeline.unet.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_anchor_is_what_the_frozen_model_says_of_it(pipeline, captioned):
    """After many steps on one batch the model answers to the target's prompt as it did to the anchor's."""
    from erasediff.families import adopt

    model = adopt(pipeline).with_prompts(CAPTIONS, anchor="a cap")
    conditions = model.conditions
    assert (conditions.num_classes, conditions.anchor, conditions.null_label) == (4, 4, 5)
    assert conditions.anchored(torch.tensor([0, 1])).tolist() == [4, 4]
    assert model.class_names == tuple(CAPTIONS)
    among = adopt(pipeline).with_prompts(CAPTIONS, anchor="a chair")
    assert among.conditions.anchor == 2


def test_an_audit_asks_in_the_words_of_the_run_or_in_others(pipeline, captioned, small_audit, tmp_path):
    erasediff.erase(pipeline, "concept:hat", captioned, prompt_template="my {}", output_dir=tmp_path / "run", **FEW)
    asked = {"data": captioned, "base": pipeline, "attacks": ["membership"], "quiet": True}
    found = erasediff.audit(tmp_path / "run", output_dir=tmp_path / "a", **asked)
    assert found.result.find("forget_rate").n == 20
    assert found.result.target == "concept:hat"
    weights = json.loads((tmp_path / "run" / "run.json").read_text())["weights"]
    assert found.result.setting["model_weights"] == {"erased": weights} and len(weights) > 1
    assert found.result.setting["model_hashes"]["erased"] not in weights.values()
    other = erasediff.audit(
        tmp_path / "run",
        output_dir=tmp_path / "b",
        prompt_template="{} up",
        cache_dir=tmp_path / "a/cache",
        **asked,
    )
    assert other.result.find("mia_auc_loss").value != found.result.find("mia_auc_loss").value


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompt_template": "a photo"}, "needs {} once"),
        ({"prompt_template": "{} and {}"}, "needs {} once"),
        ({"method": erasediff.EraseDiff(forget_target="anchor")}, "give --anchor TEXT"),
    ],
)
def test_bad_words(pipeline, captioned, given, said):
    with pytest.raises(BadInput, match=said):
        erasediff.erase(pipeline, "concept:hat", captioned, **given, **FEW)


@pytest.mark.parametrize("given", [{"prompt_template": "{}"}, {"anchor": "x"}])
def test_a_model_asked_by_number_takes_no_words(squares, given):
    with pytest.raises(BadInput, match="asked by class number, not in words"):
        erasediff.erase(TINY["unet2d"]().pipeline(), "class:1", squares, **given, **FEW)


def test_a_concept_needs_a_model_asked_in_words(squares):
    with pytest.raises(BadInput, match=r"family unet2d takes class:\.\.\., samples:\.\.\. only"):
        erasediff.erase(TINY["unet2d"]().pipeline(), "concept:1", squares, **FEW)


def test_an_audit_searches_for_words_and_says_which_it_found(pipeline, captioned, small_audit, tmp_path):
    from dataclasses import replace

    from erasediff.auditing.attacks.prompt_debugging import PromptDebugging
    from erasediff.auditing.attacks.prompt_mining import PromptMining
    from erasediff.auditing.attacks.text_embedding import TextEmbedding
    from erasediff.auditing.attacks.token_search import TokenSearch
    from erasediff.auditing.suites import SUITES

    few = {"steps": 1, "batch_size": 2, "samples": 6}
    searches = (
        TextEmbedding(starts=1, chosen_on=6, **few),
        TokenSearch(candidates=2, **few),
        PromptDebugging(candidates=2, **few),
        PromptMining(population=4, generations=2, chosen_on=6, samples=6),
    )
    asked = {"target": "concept:hat", "data": captioned, "suite": replace(SUITES["quick"], attacks=searches)}
    done = erasediff.audit(pipeline, base=pipeline, output_dir=tmp_path / "audit", quiet=True, **asked)
    for attack in searches:
        found = done.result.find(f"attack_success_{attack.name}")
        assert found.n == 6 and 0 <= found.low <= found.value <= found.high <= 1
        assert all(isinstance(text, str) for text in found.detail["prompt"])
    prefixed = done.result.find("attack_success_token_search").detail["prompt"]
    assert [text.split()[-1] for text in prefixed] == ["hat", "cat"]
    untested = {entry["what"]: entry["why"] for entry in done.verdict.not_tested}
    assert not {"text embedding", "token search"} & set(untested)
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "Pseudo-words fitted" in page
    assert "arxiv.org/abs/2310.11868" in page and "arxiv.org/abs/2310.10012" in page


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["hat", "dog", "hat"], "two classes of .* are asked alike, 'hat'"),
        (["hat", "", "dog"], "class 1 of .* no name"),
    ],
)
def test_classes_that_words_cannot_tell_apart_are_refused(names, said):
    images = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    data = build("same", images, np.arange(30) % 3, class_names=names)
    with pytest.raises(BadInput, match=said):
        erasediff.erase(_tiny_text.stable_diffusion(), "class:dog", data, dry_run=True, quiet=True)
