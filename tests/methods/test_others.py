"""The frozen model says which classes look like the forgotten one: whom to relabel to, and whom to hold."""

from dataclasses import replace

import pytest
import torch

from erasediff.data.pairs import Pairs
from erasediff.errors import BadInput
from erasediff.families.base import ClassConditions
from erasediff.families.tiny import TINY
from erasediff.methods.erasediff import EraseDiff
from erasediff.methods.munba import MUNBa
from erasediff.methods.others import HELD, LEAST, POWER, distances, distant, held
from erasediff.training.context import Context
from erasediff.training.parameters import select
from erasediff.training.processes import Processes


def context(excluded=(1,)):
    model = TINY["unet2d"]()
    model.conditions = replace(model.conditions, excluded=excluded)
    return Context(model, select(model.denoiser, "full"), Processes.start(), seed=0, micro_batch=64)


def pairs(squares, classes=(1,), size=32):
    members = torch.isin(squares.labels, torch.tensor(classes)).nonzero()[:, 0]
    return Pairs(squares, torch.arange(4), members, batch_size=size, seed=0)


def constant(answers):
    """A frozen model that answers each class with a constant."""

    def predict(noisy, condition, *, frozen):
        return torch.ones_like(noisy.x_t) * torch.tensor(answers)[condition][:, None, None, None]

    return predict


def test_distances_are_those_of_the_answers(squares):
    ctx = context()
    ctx.predict = constant([0.0, 1.0, 3.0, -1.0])
    found = distances(ctx, pairs(squares))
    assert found[1].tolist() == [1.0, 0.0, 4.0, 4.0]  # the excluded class itself is not asked about
    assert (found[[0, 2, 3]] == 1).all()


def test_processes_share_one_table(squares):
    members = (squares.labels == 1).nonzero()[:, 0]
    ctx, told = context(), []
    one = distances(ctx, Pairs(squares, torch.arange(4), members, batch_size=8, seed=0))
    shares = [Pairs(squares, torch.arange(4), members, batch_size=4, seed=0, rank=r, world=2) for r in (0, 1)]
    ctx.averaged = lambda values: told.append(values) or values
    apart = [distances(ctx, share) for share in shares]
    assert not torch.allclose(*apart), "each alone measures its own rows"
    means = [(a + b) / 2 for a, b in zip(told[:2], told[2:], strict=True)]
    ctx.averaged = lambda values: means.pop(0)
    assert torch.allclose(distances(ctx, shares[0]), one, rtol=1e-5)


def test_frozen_answers_come_in_micro_batches(squares):
    whole, small = context(), context()
    small.micro_batch, seen = 3, []
    small.teacher = lambda x, *given, **options: seen.append(len(x)) or whole.teacher(x, *given, **options)
    noisy = whole.noised(pairs(squares, size=8).at(0).forget)
    condition = torch.arange(8) % 4
    answers = [ctx.predict(noisy, condition, frozen=True) for ctx in (whole, small)]
    assert torch.allclose(*answers, atol=1e-5) and seen == [3, 3, 2]


def test_many_classes_are_drawn_alike(squares, monkeypatch):
    monkeypatch.setattr("erasediff.methods.others.MOST", 3)
    ctx = context()
    assert distances(ctx, pairs(squares)) is None and ctx.spent == 0
    assert not EraseDiff(others="distant").prepare(ctx, pairs(squares))


def test_every_forgotten_class_has_a_row_of_its_own(squares):
    ctx = context(excluded=(1, 2))
    ctx.predict = constant([0.0, 1.0, 3.0, -1.0])
    found = distances(ctx, pairs(squares, (1, 2)))
    assert found[1].tolist() == [1.0, 0.0, 0.0, 4.0]
    assert found[2].tolist() == [9.0, 0.0, 0.0, 16.0]


def test_distant_classes_are_drawn_more_often(squares):
    ctx = context()
    ctx.predict = constant([0.0, 1.0, 2.0, 4.0])  # squared distances to class 1: 1, -, 1, 9
    weights = distant(distances(ctx, pairs(squares)))
    uniform = torch.rand(60_000, generator=torch.Generator().manual_seed(0))
    drawn = ctx.model.conditions.other(torch.full((60_000,), 1), uniform, weights)
    shares = torch.bincount(drawn, minlength=4) / 60_000
    expected = torch.tensor([1.0, 0.0, 1.0, 9.0**POWER])
    assert torch.allclose(shares.double(), (expected / expected.sum()).double(), atol=0.01)


def test_a_model_without_regard_for_the_class_draws_all_alike(squares):
    ctx = context()
    ctx.predict = lambda noisy, condition, *, frozen: noisy.x_t
    assert (distant(distances(ctx, pairs(squares))) == 1).all()


def test_where_only_excluded_classes_are_distant_another_is_drawn_all_the_same(squares):
    ctx = context(excluded=(1, 3))
    ctx.predict = constant([1.0, 1.0, 1.0, 9.0])
    weights = torch.tensor([[LEAST, LEAST, LEAST, 1.0]]).expand(4, 4)
    drawn = ctx.model.conditions.other(torch.full((500,), 1), torch.linspace(0, 1, 500), weights)
    assert set(drawn.tolist()) == {0, 2}


@pytest.mark.parametrize("u", [0.0, 0.5, 1.0 - 2**-24, 1.0])
def test_equal_weights_are_no_weights(u):
    conditions = ClassConditions(7, None, (3,))
    labels, uniform = torch.arange(7), torch.full((7,), u)
    assert torch.equal(conditions.other(labels, uniform), conditions.other(labels, uniform, torch.full((7, 7), 0.3)))


def retained(squares, classes, retain):
    """Pairs that forget ``classes`` and retain the rows of ``retain``, a mask."""
    members = torch.isin(squares.labels, torch.tensor(classes)).nonzero()[:, 0]
    return Pairs(squares, retain.nonzero()[:, 0], members, batch_size=8, seed=0)


def table(**rows):
    """Distances between four classes; rows that are not given stay 1, as of classes without forget samples."""
    found = torch.ones(4, 4)
    for row, values in rows.items():
        found[int(row[1:])] = torch.tensor(values)
    return found


def test_lookalikes_count_for_more_and_the_mean_sample_for_one(squares):
    both = retained(squares, [1], squares.labels != 1)
    found = table(_1=[4.0, 0.0, 1.0, 2.0])
    labels = squares.labels[both.retain.indices]
    assert torch.equal(held(found, both, 0.0), torch.ones(4))
    close = torch.tensor([1 / 16, 0.0, 1.0, 1 / 4])  # the inverse, to the power of the drawn weights
    part = torch.bincount(labels, minlength=4) / len(labels)
    for share in (0.3, 0.7):
        counts = held(found, both, share)
        assert torch.allclose(counts, 1 - share + share * close / (close @ part), atol=1e-6)
        assert counts[labels].mean() == pytest.approx(1)


def test_no_class_counts_for_much_more_than_it_may_and_what_is_over_goes_to_all(squares):
    few = retained(
        squares, [1], (squares.labels == 0) | (squares.labels == 3) | (torch.arange(len(squares.labels)) == 2)
    )
    assert (squares.labels[few.retain.indices] == 2).sum() == 1
    counts = held(table(_1=[1.0, 0.0, 1e-3, 1.0]), few, 0.7)
    assert HELD <= counts[2] <= HELD + 1
    assert counts[0] == counts[3] > 0.9
    assert counts[squares.labels[few.retain.indices]].mean() == pytest.approx(1)


def test_each_of_the_targets_classes_has_its_own_lookalikes(squares):
    both = retained(squares, [1, 2], (squares.labels == 0) | (squares.labels == 3))
    counts = held(table(_1=[1.0, 0.0, 9.0, 2.0], _2=[2.0, 9.0, 0.0, 1.0]), both, 0.7)
    assert counts[0] == pytest.approx(float(counts[3])) == pytest.approx(1, abs=0.2)
    # A class that went before has no forget samples: its row says nothing, and it is not held itself.
    later = held(table(_1=[4.0, 0.0, 1e-6, 1.0]), retained(squares, [1], both.data.labels % 3 == 0), 0.7)
    assert later[3] > 1 > later[0]


def test_a_model_without_regard_for_the_class_holds_all_alike(squares):
    both = retained(squares, [1], squares.labels != 1)
    assert torch.allclose(held(torch.zeros(4, 4), both, 0.7)[[0, 2, 3]], torch.ones(3))


def test_what_is_held_does_not_depend_on_the_scale_of_the_distances(squares):
    both = retained(squares, [1], squares.labels != 1)
    found = table(_1=[4.0, 0.0, 1.0, 2.0])
    assert torch.allclose(held(found, both, 0.7), held(1e-4 * found, both, 0.7), rtol=1e-4)


def test_the_choice_is_a_field(squares):
    ctx = context()
    assert set(EraseDiff(others="distant", retain_focus=0.0).prepare(ctx, pairs(squares))) == {"others"}
    assert set(EraseDiff(others="uniform").prepare(ctx, pairs(squares))) == {"held"}
    assert not EraseDiff(others="uniform", retain_focus=0.0).prepare(ctx, pairs(squares))
    with pytest.raises(BadInput, match="distant"):
        EraseDiff(others="near")


def test_the_distances_are_measured_once(squares):
    """Whom to draw and whom to hold are read from one table."""
    once, both = context(), context()
    EraseDiff(retain_focus=0.0).prepare(once, pairs(squares))
    EraseDiff().prepare(both, pairs(squares))
    assert once.spent == both.spent > 0


def test_lookalikes_are_held_where_classes_are_relabelled():
    """Elsewhere nobody has measured it yet."""
    classes = ClassConditions(4, 4, (1,))
    assert EraseDiff().suited_to(classes).retain_focus == pytest.approx(0.7)
    assert EraseDiff(retain_focus=0.2).suited_to(classes).retain_focus == pytest.approx(0.2)
    assert EraseDiff().suited_to(replace(classes, excluded=())).retain_focus == 0
    assert EraseDiff(forget_target="noise").suited_to(classes).retain_focus == 0
    assert EraseDiff(forget_target="relabel").suited_to(replace(classes, in_words=True)).retain_focus == 0
    assert MUNBa().suited_to(classes).retain_focus == 0


def test_whoever_asks_for_it_needs_classes():
    assert EraseDiff(forget_target="noise", retain_focus=0.5).needs.classes
    assert not EraseDiff(forget_target="noise").needs.classes
