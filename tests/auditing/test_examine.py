"""The plan of an audit: what is asked of a model depends on how it is asked, and the list of the rest stays honest."""

from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch

from erasediff.auditing import drawing
from erasediff.auditing.attacks import ATTACKS, IN_WORDS
from erasediff.auditing.cache import Cache
from erasediff.auditing.examine import Examination
from erasediff.auditing.suites import SUITES, with_attacks
from erasediff.errors import BadInput
from tests.auditing._scene import SUITE, scene
from tests.auditing._words import painted


def planned(there, suite):
    models = {"erased": there.model, "retrained": there.model}
    if there.base is not None:
        models["base"] = there.base
    return Examination.plan(models, replace(there.question, suite=suite), Cache(None))


def attacked(examination):
    return {u.name for u in examination.units if u.name in ATTACKS}


@pytest.mark.parametrize("suite", [*SUITES.values(), with_attacks(SUITES["quick"], ["token_search"])])
def test_a_model_that_is_not_asked_in_words_is_told_so_in_one_line(suite):
    found = planned(scene(base=True), suite)
    lines = [entry for entry in found.untested if "words" in entry[1] or "token" in entry[0]]
    assert lines == [
        ("text embedding, token search, prompt debugging, prompt mining", "the model is not asked in words")
    ]
    assert not attacked(found) & set(IN_WORDS)
    assert not any(name in found.announcement() for name in IN_WORDS)


def test_of_a_model_asked_in_words_every_attack_is_made_or_named():
    for suite in SUITES.values():
        found = planned(painted(), suite)
        untested = {what.replace(" ", "_") for what, _ in found.untested}
        assert attacked(found) | untested == set(ATTACKS)
        assert not attacked(found) & untested
        assert "text_embedding" in attacked(found)
        assert ("class embedding", "the model is asked in words: text embedding takes its place") in found.untested
    assert set(IN_WORDS) <= attacked(planned(painted(), SUITES["full"]))
    assert {"text_embedding", "token_search"} <= attacked(planned(painted(), SUITES["standard"]))


def test_without_a_base_model_its_answers_are_not_matched():
    found = planned(painted(base=False), SUITES["full"])
    assert ("prompt debugging", "no base model was given") in found.untested
    assert "prompt_mining" in attacked(found)


@pytest.mark.parametrize(
    ("changes", "sizes", "said"),
    [
        ({}, {"per_class": 1}, "2 drawn images of a class; the suite says per_class 1"),
        ({"retain": torch.arange(5)}, {}, "there are 5 real retained ones, and 12 are drawn"),
        ({"forget": torch.arange(1)}, {}, "takes 2 real images of it, and there is 1"),
        ({"classes": (0, 1, 2), "forget": torch.arange(3)}, {}, "from 6 images on; .* and 4 are drawn .per_class"),
    ],
)
def test_too_few_images_are_refused_before_any_is_drawn(changes, sizes, said, monkeypatch):
    monkeypatch.setattr(drawing, "images", None)
    with pytest.raises(BadInput, match=said):
        planned(scene(**changes), replace(SUITE, **sizes))


def test_clip_scores_are_not_announced_as_an_attack():
    there = painted()
    clip = SimpleNamespace(texts=lambda names: None, fingerprint="x")
    found = planned(replace(there, question=replace(there.question, clip=clip)), SUITES["quick"])
    assert "clip_score" in {u.name for u in found.units}
    assert "clip_score" not in found.announcement() and "text_embedding" in found.announcement()


def test_the_judge_is_asked_once_about_each_sample():
    there, asked = scene(), []

    class Counting(type(there.question.judge)):
        def probabilities(self, images):
            asked.append(len(images))
            return super().probabilities(images)

    judge = there.question.judge
    counting = Counting(**{f.name: getattr(judge, f.name) for f in fields(judge)})
    drawing.judged(drawing.Subject("erased", there.model, replace(there.question, judge=counting)))
    assert sum(asked) == SUITE.forget + 3 * SUITE.per_class + SUITE.unconditional
