"""The push of the barrier ends where enough of the target's own answers is gone."""

from dataclasses import replace

import pytest
import torch

import erasediff
from erasediff.data.pairs import Pairs
from erasediff.errors import BadInput
from erasediff.families.base import ClassConditions
from erasediff.families.tiny import TINY
from erasediff.methods.base import step_cost
from erasediff.methods.decided import AGAIN, push
from erasediff.methods.erasediff import EraseDiff
from erasediff.methods.munba import MUNBa
from erasediff.training.context import Context
from erasediff.training.parameters import select
from erasediff.training.processes import Processes

CLASSES = ClassConditions(4, 4, (1,))


def left(share):
    return torch.tensor(share)


def test_the_push_is_whole_while_much_is_left_and_none_at_the_residual():
    assert push(left(1.0), 0.1) == push(left(0.1 * AGAIN), 0.1) == 1
    assert push(left(0.25), 0.25) == push(left(-0.5), 0.1) == 0
    assert push(left(0.25), 0.1) == pytest.approx(0.5)
    assert push(left(0.0), 0.0) == push(None, 0.1) == 1


def test_it_is_watched_where_classes_are_relabelled():
    assert EraseDiff().suited_to(CLASSES).residual == pytest.approx(0.1)
    assert EraseDiff(residual=0.3).suited_to(CLASSES).residual == pytest.approx(0.3)
    assert EraseDiff().suited_to(replace(CLASSES, excluded=())).residual == 0
    assert EraseDiff(forget_target="relabel").suited_to(replace(CLASSES, in_words=True)).residual == 0
    assert MUNBa().suited_to(CLASSES).residual == 0


def test_a_target_that_does_not_know_what_is_left_refuses_to_watch_it():
    with pytest.raises(BadInput, match=r"residual 0\.2 cannot be watched under forget_target noise.*one of: relabel"):
        EraseDiff(forget_target="noise", residual=0.2).suited_to(CLASSES)
    assert EraseDiff(forget_target="noise", residual=0.0).suited_to(CLASSES).residual == 0


@pytest.mark.parametrize("fields", [{}, {"repulsion": 0.0}, {"repulsion": 0.0, "residual": 0.0}, {"residual": 0.0}])
def test_what_watching_costs_is_what_is_planned(fields, squares):
    method = EraseDiff(others="uniform", retain_focus=0.0, **fields).suited_to(CLASSES)
    run = erasediff.erase(TINY["unet2d"]().pipeline(), "class:1", squares, method, max_train_steps=2)
    assert run.record["cost"]["forward_equivalents"] == pytest.approx(2 * step_cost(method, 0.25))


def test_once_enough_is_gone_the_barrier_no_longer_pushes(squares):
    """At theta_0 all is left, so that a residual of 1 asks only that the forget loss does not rise."""
    members = (squares.labels == 1).nonzero()[:, 0]
    pair = Pairs(squares, (squares.labels != 1).nonzero()[:, 0], members, batch_size=8, seed=0)
    found = {}
    for residual in (0.1, 1.0):
        model = TINY["unet2d"]()
        model.conditions = replace(model.conditions, excluded=(1,))
        ctx = Context(model, select(model.denoiser, "full"), Processes.start(), seed=0, micro_batch=64)
        method = EraseDiff(residual=residual, retain="distill", null_share=0.0).suited_to(model.conditions)
        found[residual] = method.direction(ctx, pair.at(0), method.prepare(ctx, pair))
    assert found[0.1].log["residual"] == found[1.0].log["residual"] == pytest.approx(1, abs=1e-5)
    # Distillation begins without a gradient, so the barrier alone decides.
    assert found[0.1].log["multiplier"] == pytest.approx(0.3)
    assert found[1.0].log["multiplier"] == pytest.approx(0, abs=1e-4)
