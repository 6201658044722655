"""SalUn's claim: only salient weights move, and they are chosen once, at theta_0."""

from dataclasses import replace

import pytest
import torch

from erasediff.data.pairs import Pairs
from erasediff.data.targets import Class, split
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.methods.objectives import Denoise
from erasediff.methods.salun import SalUn
from erasediff.solver.gram import combine
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import start, take_step


@pytest.fixture
def session(squares):
    model = TINY["unet2d"]()
    divided = split([Class(1)], squares)
    model.conditions = replace(model.conditions, excluded=divided.classes)
    pairs = Pairs(squares, divided.retain, divided.forget, batch_size=8, seed=0)
    return start(model, SalUn(mask_share=0.5), pairs, TrainingConfig(train_batch_size=8, use_ema=False))


def test_weights_outside_the_mask_do_not_move(session):
    before = [p.detach().clone() for p in session.trained.values()]
    masks = [session.state[f"mask.{i}"] for i in range(len(before))]
    for _ in range(3):
        take_step(session)
    moved = [(p.detach() != b) for p, b in zip(session.trained.values(), before, strict=True)]
    assert not any((m & ~mask).any() for m, mask in zip(moved, masks, strict=True))
    assert sum(int(m.sum()) for m in moved) > 0.9 * sum(int(mask.sum()) for mask in masks)
    assert all(torch.equal(session.state[f"mask.{i}"], mask) for i, mask in enumerate(masks))


def test_weight_decay_does_not_move_them_either(session):
    session.config = replace(session.config, adam_weight_decay=0.1)
    session.optimizer.param_groups[0]["weight_decay"] = 0.1
    test_weights_outside_the_mask_do_not_move(session)


def test_the_mask_is_that_of_the_forget_gradient_at_theta_0(session):
    total = None
    for number in range(SalUn().mask_batches):
        batch = replace(session.pairs.at(number).forget, role=f"saliency/{number}")
        (term,) = session.context.gradients((Denoise(0.0), batch))
        total = term.gradients if total is None else combine([1.0, 1.0], [total, term.gradients])
    size = torch.cat([g.abs().flatten() for g in total])
    mask = torch.cat([session.state[f"mask.{i}"].flatten() for i in range(len(total))])
    assert int(mask.sum()) == round(0.5 * len(size))
    assert size[mask].min() >= size[~mask].max()


@pytest.mark.parametrize(
    "fields",
    [{"mask_share": 0.0}, {"mask_share": 2.0}, {"mask_batches": 0}, {"alpha": -1.0}, {"alpha": float("nan")}],
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(BadInput, match=next(iter(fields))):
        SalUn(**fields)
