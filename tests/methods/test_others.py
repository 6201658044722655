"""Other classes for relabelling: the frozen model says which look least like the forgotten one."""

from dataclasses import replace

import pytest
import torch

from erasediff.data.pairs import Pairs
from erasediff.errors import BadInput
from erasediff.families.base import ClassConditions
from erasediff.families.tiny import TINY
from erasediff.methods.erasediff import EraseDiff
from erasediff.methods.others import LEAST, POWER, distances, distant
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
    assert distant(ctx, pairs(squares)) is None and ctx.spent == 0
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
    weights = distant(ctx, pairs(squares))
    uniform = torch.rand(60_000, generator=torch.Generator().manual_seed(0))
    drawn = ctx.model.conditions.other(torch.full((60_000,), 1), uniform, weights)
    shares = torch.bincount(drawn, minlength=4) / 60_000
    expected = torch.tensor([1.0, 0.0, 1.0, 9.0**POWER])
    assert torch.allclose(shares.double(), (expected / expected.sum()).double(), atol=0.01)


def test_a_model_without_regard_for_the_class_draws_all_alike(squares):
    ctx = context()
    ctx.predict = lambda noisy, condition, *, frozen: noisy.x_t
    assert (distant(ctx, pairs(squares)) == 1).all()


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


def test_the_choice_is_a_field(squares):
    ctx = context()
    assert set(EraseDiff(others="distant").prepare(ctx, pairs(squares))) == {"others"}
    assert not EraseDiff(others="uniform").prepare(ctx, pairs(squares))
    with pytest.raises(BadInput, match="distant"):
        EraseDiff(others="near")
