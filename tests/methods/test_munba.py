"""MUNBa's claim: both players gain the same, each measured by its own gradient."""

import pytest
import torch

from erasediff.data.pairs import Pairs
from erasediff.families.tiny import TINY
from erasediff.methods.erasediff import EraseDiff
from erasediff.methods.forgetting import FORGET_TARGETS, Asked
from erasediff.methods.munba import MUNBa
from erasediff.methods.objectives import RETAIN_OBJECTIVES
from erasediff.methods.timesteps import UNIFORM
from erasediff.solver.gram import gram
from erasediff.training.context import Context
from erasediff.training.parameters import select
from erasediff.training.processes import Processes


def context():
    model = TINY["unet2d"]()
    return Context(model, select(model.denoiser, "full"), Processes.start(), seed=0, micro_batch=64)


def pair(squares, step=0):
    forget = (squares.labels == 1).nonzero()[:, 0]
    retain = (squares.labels != 1).nonzero()[:, 0]
    return Pairs(squares, retain, forget, batch_size=8, seed=0).at(step)


def test_it_is_erasediff_under_the_rule(squares):
    found, same = (
        m.direction(context(), pair(squares), {})
        for m in (MUNBa(forget_target="relabel"), EraseDiff(forget_target="relabel", retain="denoise", rule="munba"))
    )
    other = EraseDiff(forget_target="relabel", retain="denoise").direction(context(), pair(squares), {})
    assert all(torch.equal(a, b) for a, b in zip(found.gradients, same.gradients, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found.gradients, other.gradients, strict=True))
    assert MUNBa().rule == "munba"


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("target", ["relabel", "noise"])
def test_both_players_gain_the_same(step, target, squares):
    ctx, batches = context(), pair(squares, step)
    method = MUNBa(forget_target=target).suited_to(ctx.model.conditions)
    ctx.begin(step)
    found = method.direction(ctx, batches, {})
    asked = Asked(
        state={},
        null_share=method.null_share,
        repulsion=method.repulsion,
        floor=False,
        watched=False,
        timesteps=UNIFORM,
    )
    objective = FORGET_TARGETS[target].make(asked)
    forget, retain = ctx.gradients(
        (objective, batches.forget), (RETAIN_OBJECTIVES[method.retain](method.retain_null_share), batches.retain)
    )
    matrix = gram([found.gradients, retain.gradients, forget.gradients])
    gains = matrix[0, 1:] / matrix.diagonal()[1:].sqrt()
    assert float(gains[0]) == pytest.approx(float(gains[1]), rel=1e-4)
    assert float(gains[0]) > 0
