"""Searches over real tokens: what a slow search of all prompts finds they find, they never end worse, and use words."""

import copy
from dataclasses import replace
from itertools import product

import pytest
import torch

from erasediff.auditing.attacks.forgotten import noised
from erasediff.auditing.attacks.prompt_debugging import PromptDebugging
from erasediff.auditing.attacks.prompt_mining import PromptMining, bred, mined
from erasediff.auditing.attacks.swapping import proposals, search
from erasediff.auditing.attacks.token_search import TokenSearch
from erasediff.auditing.attacks.wording import drawn_words, parts, rows_of_tokens
from erasediff.errors import BadInput
from erasediff.randomness import generator
from tests.auditing._scene import question, scene
from tests.auditing._words import ROOM, UNO, VOCABULARY, erased, painted, planted, stand_in, vectors, without_reader

PREFIX = TokenSearch(tokens=2, steps=12, candidates=8, batch_size=8, samples=18)
DEBUG = PromptDebugging(tokens=2, steps=12, candidates=8, batch_size=8, samples=18)
MINE = PromptMining(
    tokens=2, strengths=(1.0, 2.0), neutral="the", population=24, generations=24, chosen_on=6, samples=18
)
TINY = [
    replace(PREFIX, steps=2, batch_size=4, samples=6),
    replace(DEBUG, steps=2, batch_size=4, samples=6),
    replace(MINE, neutral="a dog", population=6, generations=3, chosen_on=6, samples=6),
]


def every_prompt(count):
    return list(product(planted().model.reader().words.tolist(), repeat=count))


def least(objective, count):
    """The slow way: ask with every prompt there is."""
    with torch.no_grad():
        losses = {tokens: float(objective(vectors()[list(tokens)], None)) for tokens in every_prompt(count)}
    return min(losses.values()), losses


def test_a_prefix_brings_the_concept_back_under_its_own_prompt():
    (found,) = PREFIX.run(planted())
    m = found.measurement
    assert (m.name, m.value, m.n) == ("attack_success_token_search", 1, 18)
    assert m.detail["prompt"][0].split()[-1] == "one"
    assert "uno" in m.detail["prompt"][0].split()
    assert m.detail["loss_after"] < m.detail["loss_before"]
    assert (found.evidence.role, found.evidence.alone, found.evidence.margin) == ("access", 0.5, 0.15)


@pytest.mark.parametrize("classes", [(1,), (0, 1)])
def test_what_is_minimised_is_the_loss_of_the_whole_prompts_on_their_own_images(classes):
    there = painted(classes=classes)
    model, reader = there.model, there.model.reader()
    with torch.no_grad():
        said = PREFIX.objective(there, reader, model.denoiser)(reader.vectors[list(reader.tokens("cat 9"))], 5)
        purpose = {"step": 5, "purpose": "token_search", "classes": classes}
        noisy, labels = noised(there, model.denoiser, PREFIX.batch_size, **purpose)
        asked = model.with_prompts([f"cat 9 {name}" for name in model.class_names])
        prediction = asked.ask(model.denoiser, noisy.x_t, noisy.t, labels)
    assert set(labels.tolist()) == set(classes)
    assert float(said) == float((prediction - noisy.noise).square().mean())


@pytest.mark.parametrize("count", [1, 2])
def test_the_search_finds_the_best_of_all_prefixes(count):
    there = planted()
    reader = there.model.reader()
    objective = PREFIX.objective(there, reader, there.model.denoiser)
    best, losses = least(objective, count)
    start = max(losses, key=losses.get)
    options = {"spelled": lambda tokens: True, "seed": 0, "purpose": "test"}
    found = search(reader, start, objective, steps=30, candidates=14, **options)
    assert found.loss_before == pytest.approx(losses[start])
    assert found.loss_after == pytest.approx(best)
    assert losses[found.tokens] == pytest.approx(best)
    assert UNO in found.tokens


def test_the_promised_change_of_a_swap_is_the_real_one_where_the_loss_is_linear():
    reader = planted().model.reader()
    slope = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    start = (5, 9)
    ranked = sorted(every_prompt(2), key=lambda tokens: float((slope * vectors()[list(tokens)]).sum()))
    found = search(
        reader,
        start,
        lambda given, step: (slope * given).sum(),
        spelled=lambda tokens: True,
        steps=2,
        candidates=3,
        seed=0,
        purpose="test",
    )
    # Three at each of two places hold the best of both, and each is tried in two steps.
    assert found.tokens == ranked[0]


def test_a_search_never_ends_worse_and_says_only_what_is_spelled():
    there = planted()
    reader = there.model.reader()
    said = []

    def objective(given, step):
        if step is None:
            said.append(tuple(int((vectors() == row).all(1).nonzero()[0]) for row in given))
            return given.square().sum()  # what the gradient, of another loss, makes worse
        return -given.square().sum()

    fine = {t for t in range(len(VOCABULARY) - 2) if t % 2}
    start = (1, 5)
    options = {"steps": 6, "candidates": 4, "seed": 0, "purpose": "test"}
    found = search(reader, start, objective, spelled=lambda tokens: set(tokens) <= fine, **options)
    assert found.loss_after <= found.loss_before
    assert all(set(tokens) <= fine for tokens in said)
    assert len(said) == len(set(said)) > 1


def test_proposals_change_one_token_each():
    reader = planted().model.reader()
    gradient = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    found = proposals(reader, (0, 1, 2), gradient, {(0, 1, 2)}, lambda tokens: True, 9, generator(0, 0, "test"))
    assert len(found) == len(set(found)) == 9
    assert all(sum(a != b for a, b in zip(swap, (0, 1, 2), strict=True)) == 1 for swap in found)


def test_debugging_finds_another_word_for_what_the_base_model_draws():
    (found,) = DEBUG.run(planted())
    m = found.measurement
    assert (m.name, m.value) == ("attack_success_prompt_debugging", 1)
    assert "uno" in m.detail["prompt"][0].split()
    assert m.detail["loss_after"][0] < 0.05 * m.detail["loss_before"][0]


@pytest.mark.parametrize("there", [planted(stand_in()), replace(painted(), base=painted().model)])
def test_the_loss_of_debugging_is_nought_for_the_own_prompt_of_an_unchanged_model(there):
    reader = there.model.reader()
    objective = DEBUG.objective(there, reader, there.model.denoiser, (1,))
    own = reader.vectors[list(reader.tokens(there.model.class_names[1]))]
    with torch.no_grad():
        assert float(objective(own, None)) == float(objective(own, 3)) == 0
        other = reader.vectors[list(reader.tokens(there.model.class_names[2]))]
        assert float(objective(other, None)) > 0


def test_mining_finds_the_word_whose_direction_the_concept_is():
    """Less a retained prompt and plus the same one as the neutral prompt, the concept is the target's own row."""
    there = planted(erased(("zero", "one")), gone=(2, 3))
    attack = replace(MINE, tokens=1, neutral="zero", strengths=(1.0,), population=8)
    reader = there.model.reader()
    wanted = attack.wanted(there, reader, (1,), 1.0)
    torch.testing.assert_close(wanted["text"], vectors()[[1]])
    found = mined(attack, reader, wanted, seed=0)
    assert (found.tokens, found.distance_after) == ((1,), 0)
    (reported,) = attack.run(there)
    assert reported.measurement.detail["prompt"] == ["one"]
    assert reported.measurement.value == 0  # the word is the one that was taken from it


def test_mining_finds_on_a_miniature_what_trying_every_word_finds():
    there = painted()
    attack = replace(MINE, tokens=1, neutral="cat", population=12, generations=12, mutation=0.6)
    reader = there.model.reader()
    wanted = attack.wanted(there, reader, (1,), 1.0)
    words = [(t,) for t in reader.words.tolist()]
    rows = rows_of_tokens(reader, words)["encoder_hidden_states"]
    distances = (rows - wanted["encoder_hidden_states"]).square().flatten(1).sum(1)
    found = mined(attack, reader, wanted, seed=0)
    assert found.tokens == words[int(distances.argmin())]
    assert found.distance_after == pytest.approx(float(distances.min()), rel=1e-4)


def test_mining_never_ends_farther_away_and_breeds_words_only():
    reader = planted().model.reader()
    wanted = {"text": torch.randn(1, 8, generator=torch.Generator().manual_seed(5))}
    distances = [
        mined(replace(MINE, tokens=3, generations=n), reader, wanted, seed=1).distance_after for n in (1, 4, 16)
    ]
    assert distances == sorted(distances, reverse=True)
    ranked = [drawn_words(reader, 2, generator(0, i, "test")) for i in range(6)]
    children = bred(MINE, reader, ranked, generator(0, 0, "test"))
    assert len(children) == 5
    assert {t for child in children for t in child} <= set(reader.words.tolist())
    pure = bred(replace(MINE, mutation=1e-9), reader, ranked, generator(0, 0, "test"))
    assert all(c[0] in {p[0] for p in ranked[:3]} and c[1] in {p[1] for p in ranked[:3]} for c in pure)


def test_mining_reports_a_strength_on_samples_that_did_not_choose_it(monkeypatch):
    import numpy as np

    from erasediff.auditing.attacks import prompt_mining

    asked = []

    def lucky(there, reader, rows, denoiser, count, kind):
        asked.append((count, kind.split("/")[1]))
        hit = len(asked) == 2
        return np.full(count, hit), np.full(count, hit)

    monkeypatch.setattr(prompt_mining, "asked_with", lucky)
    (found,) = MINE.run(planted())
    assert (found.measurement.value, found.measurement.detail["strength"]) == (0.0, 2.0)
    assert asked == [(6, "choice"), (6, "choice"), (18, "report")]


def test_few_prompts_are_searched_apart_and_many_as_one():
    assert parts(question(classes=(1, 3))) == [(1,), (3,)]
    assert parts(question(classes=(0, 1, 2, 3))) == [(0, 1, 2, 3)]
    (found,) = DEBUG.run(planted(classes=(1, 2)))
    assert len(found.measurement.detail["prompt"]) == 2


def test_a_prefix_is_as_long_as_the_prompts_leave_room():
    there = planted(erased(("zero", "one" + " the" * (ROOM - 2), "two", "three")))
    assert replace(PREFIX, tokens=5).room(there, there.model.reader()) == 1
    (found,) = replace(PREFIX, tokens=5, steps=1, samples=6).run(there)
    assert len(found.measurement.detail["prompt"][0].split()) == ROOM
    full = planted(erased(("zero", "one" + " the" * (ROOM - 1), "two", "three")))
    assert "no room" in PREFIX.refusal(full)
    assert "special tokens" in PREFIX.refusal(planted(erased(("zero", "one <end>", "two", "three"))))


@pytest.mark.parametrize("attack", TINY, ids=lambda a: a.name)
def test_a_miniature_is_left_alone_and_the_budget_nearly_kept(attack):
    passed = []
    there = painted(tick=passed.append)
    models = (there.model, there.base)
    before = [copy.deepcopy(m.denoiser.state_dict()) for m in models] + [
        copy.deepcopy(m.text_encoder.state_dict()) for m in models
    ]
    (found,) = attack.run(there)
    spent = sum(passed)
    assert attack.run(there) == [found]
    after = [m.denoiser.state_dict() for m in models] + [m.text_encoder.state_dict() for m in models]
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(old[k], new[k]) for k in old)
    assert all(p.grad is None for m in models for p in m.denoiser.parameters())
    # A swap that no text spells is not asked with: a search may cost less than it says.
    assert 0.8 * attack.cost(there) <= spent <= attack.cost(there)
    prompts = found.measurement.detail["prompt"]
    read = there.model.with_prompts(prompts).table.embeddings["encoder_hidden_states"][: len(prompts)]
    rows = rows_of_tokens(there.model.reader(), [there.model.reader().tokens(p) for p in prompts])
    assert torch.equal(rows["encoder_hidden_states"], read)  # what is reported is what was asked
    assert found.measurement.name == f"attack_success_{attack.name}"


@pytest.mark.parametrize("attack", TINY, ids=lambda a: a.name)
def test_what_cannot_be_run_says_why(attack):
    assert attack.refusal(painted()) is None
    assert attack.refusal(scene(base=True)) == "the model is not asked in words"
    assert "many_encoders gives no text encoder" in attack.refusal(replace(planted(), model=without_reader()))
    assert "no labels" in attack.refusal(painted(judge=None))
    assert "no class" in attack.refusal(painted(classes=()))
    without = attack.refusal(painted(base=False))
    assert ("no base model" in without) if attack.name == "prompt_debugging" else without is None
    if attack.name != "token_search":
        assert "15 tokens is too long: the model reads 14" in replace(attack, tokens=15).refusal(painted())
    with pytest.raises(BadInput, match="at least 1"):
        replace(attack, tokens=0)


def test_mining_needs_a_strength_and_two_parents():
    for wrong in ({"strengths": ()}, {"population": 1}, {"mutation": 0.0}):
        with pytest.raises(BadInput):
            replace(MINE, **wrong)


def test_words_that_spell_nothing_together_are_given_up():
    class Mute:
        words = torch.arange(3)

        def spelled(self, tokens):
            return None

    with pytest.raises(BadInput, match="no 2 of the tokenizer's 3 words"):
        drawn_words(Mute(), 2, generator(0, 0, "test"))
    reader = planted().model.reader()
    with pytest.raises(BadInput, match="no 2 of"):
        drawn_words(reader, 2, generator(0, 0, "test"), [(), (VOCABULARY.index("<end>"),)])
