"""A concept that lost its words comes back by other vectors; the search finds what algebra says is best."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from erasediff.auditing.attacks.class_embedding import ClassEmbedding
from erasediff.auditing.attacks.text_embedding import TextEmbedding, beginnings, nearest
from erasediff.auditing.attacks.wording import asked_with, rows_of_tokens
from erasediff.errors import BadInput
from tests.auditing._scene import scene
from tests.auditing._words import UNO, erased, painted, patterns, planted, stand_in, vectors, without_reader

SEARCH = TextEmbedding(tokens=2, steps=80, batch_size=16, learning_rate=0.15, chosen_on=12, samples=24)
TINIEST = TextEmbedding(tokens=2, starts=2, steps=2, batch_size=4, chosen_on=6, samples=6)


def directly(there):
    rows = rows_of_tokens(there.model.reader(), [there.model.reader().tokens("one")])
    shown, _ = asked_with(there, there.model.reader(), rows, there.model.denoiser, 12, "direct")
    return shown.mean()


def test_a_concept_that_lost_its_word_comes_back():
    there = planted()
    assert directly(planted(stand_in())) == 1
    assert directly(there) == 0
    (found,) = SEARCH.run(there)
    assert found.measurement.value == 1
    assert (found.measurement.name, found.measurement.n) == ("attack_success_text_embedding", 24)
    assert (found.evidence.role, found.evidence.alone, found.evidence.margin) == ("access", 0.5, 0.15)
    assert found.measurement.low < 1 <= found.measurement.high


def test_the_search_reaches_the_least_loss_that_any_vectors_have():
    """What is drawn is the matrix times a sum of vectors: the best is the projection of the mean forgotten image."""
    there = planted()
    images = there.question.data.floats(there.question.forget).flatten(1)
    weight = there.model.denoiser.weight.detach()
    best = weight @ torch.linalg.pinv(weight) @ images.mean(0)[:, None]
    least = (images - best.T).square().mean()
    for tried in SEARCH.run(there)[0].measurement.detail["tried"]:
        assert tried["loss_before"] > 3 * least
        assert tried["loss_after"] == pytest.approx(float(least), rel=0.1)


def test_a_concept_that_is_not_in_the_weights_does_not_come_back():
    weight = patterns().clone()
    weight[:, [1, 7]] = 0
    (found,) = SEARCH.run(planted(stand_in(weight)))
    assert found.measurement.value == 0
    assert directly(planted(stand_in(weight))) == 0


def test_the_starts_are_what_they_are_called():
    names = ("a zero", "a one", "the two", "a three")
    there = planted(erased(names))
    own, mean, retained = beginnings(there, there.model.reader(), 3)
    table = vectors()
    assert [name for name, _ in (own, mean, retained)] == ["own", "mean", "retained"]
    # "a" says nothing of the target: a retained prompt has it too.
    assert torch.equal(own[1], table[torch.tensor([[1, 1, 1]])])
    torch.testing.assert_close(mean[1], table[:-2].mean(0).expand(1, 3, -1))
    said = [there.model.reader().tokens(w)[0] for w in ("zero", "the", "two", "three")]
    torch.testing.assert_close(retained[1], table[said].mean(0).expand(1, 3, -1))
    both = beginnings(planted(erased(names), classes=(1, 3)), there.model.reader(), 1)
    assert torch.equal(both[0][1], table[torch.tensor([[1], [3]])])
    alone = planted(erased(names), classes=(0, 1, 2, 3))
    ((_, as_one), *others) = beginnings(alone, there.model.reader(), 2)
    assert as_one.shape == (1, 2, 8) and len(others) == 1  # more than three prompts are searched as one


def test_each_of_two_classes_gets_vectors_of_its_own():
    weight = patterns().clone()
    weight[:, [1, 3]] = 0
    weight[:, 6] = patterns()[:, 3]  # class 3 is drawn along another axis, too
    there = planted(stand_in(weight), classes=(1, 3))
    reader = there.model.reader()
    found = SEARCH._search(there, reader, there.model.denoiser, *beginnings(there, reader, 2)[1])
    drawn = SEARCH.rows(reader, found.vectors)["text"] @ weight.T
    expected = patterns().T[[1, 3]]
    torch.testing.assert_close(drawn, expected, atol=0.15, rtol=0)
    (reported,) = SEARCH.run(there)
    assert reported.measurement.value == 1
    assert len(reported.measurement.detail["prompt"]) == 2


def test_words_near_the_vectors_are_named():
    reader = planted().model.reader()
    assert nearest(reader, 3 * vectors()[torch.tensor([[UNO, 1]])] + 0.1) == ["uno one"]
    (found,) = replace(SEARCH, starts=1).run(planted())
    assert found.measurement.detail["prompt"][0].startswith("a photo of a <")


def test_the_best_start_is_reported_on_samples_it_was_not_chosen_on(monkeypatch):
    asked = []

    def lucky(self, there, reader, pupil, vectors, count, kind):
        asked.append((count, kind))
        hit = kind == "choice" and len(asked) == 2
        return np.full(count, hit), np.full(count, hit)

    monkeypatch.setattr(TextEmbedding, "_asked", lucky)
    (found,) = replace(TINIEST, starts=3).run(planted())
    assert (found.measurement.value, found.measurement.detail["best_start"]) == (0.0, "mean")
    assert asked == [(6, "choice")] * 3 + [(6, "report")]


@pytest.mark.parametrize("classes", [(1,), (0, 1, 2, 3)])
def test_a_miniature_is_left_alone_and_the_budget_kept(classes):
    passed = []
    there = painted(classes=classes, tick=passed.append)
    before = {n: copy.deepcopy(getattr(there.model, n).state_dict()) for n in ("denoiser", "text_encoder", "vae")}
    attack = replace(TINIEST, starts=3)
    (found,) = attack.run(there)
    assert found == attack.run(there)[0]
    for name, state in before.items():
        assert all(torch.equal(state[k], v) for k, v in getattr(there.model, name).state_dict().items()), name
    assert all(p.grad is None for p in there.model.denoiser.parameters())
    assert sum(passed) == 2 * attack.cost(there)


def test_the_loss_falls_on_a_miniature():
    (found,) = replace(TINIEST, starts=1, steps=24, batch_size=8, learning_rate=1.0).run(painted())
    (tried,) = found.measurement.detail["tried"]
    assert tried["loss_after"] < tried["loss_before"]


def test_what_cannot_be_run_says_why():
    assert SEARCH.refusal(planted()) is None
    assert SEARCH.refusal(painted()) is None
    assert SEARCH.refusal(scene()) == "the model is not asked in words"
    assert "many_encoders gives no text encoder" in SEARCH.refusal(replace(planted(), model=without_reader()))
    assert "no labels" in SEARCH.refusal(planted(judged=False))
    assert "no class" in SEARCH.refusal(planted(classes=()))
    assert "10 tokens long, the model reads 9" in replace(SEARCH, tokens=6).refusal(planted())
    assert "text embedding takes its place" in ClassEmbedding().refusal(planted())
    wrong = [({"starts": 4}, "between 1 and 3"), ({"tokens": 0}, "at least 1"), ({"template": "a photo"}, "needs {}")]
    for fields, said in wrong:
        with pytest.raises(BadInput, match=said):
            TextEmbedding(**fields)
