"""Conditions: whom the relabel target may draw."""

import pytest
import torch

from erasediff.errors import BadInput
from erasediff.families.base import ClassConditions


def test_other_draws_every_allowed_class_equally_and_never_own_nor_excluded():
    conditions = ClassConditions(5, 5, excluded=(1,))
    own = torch.tensor([0]).repeat(3000)
    drawn = conditions.other(own, (torch.arange(3000) + 0.5) / 3000)
    assert torch.bincount(drawn, minlength=5).tolist() == [0, 0, 1000, 1000, 1000]


@pytest.mark.parametrize("u", [0.0, 1 - 1e-7, 0.9999999999])
def test_the_ends_of_the_unit_interval_stay_inside(u):
    drawn = ClassConditions(3, 3, excluded=(2,)).other(torch.tensor([0, 1]), torch.tensor([u, u]))
    assert drawn.tolist() == [1, 0]


def test_an_unconditional_model_has_no_condition_and_no_other_class():
    conditions = ClassConditions(0, None)
    assert conditions.own(torch.tensor([1])) is None
    assert conditions.null(torch.tensor([1])) is None
    with pytest.raises(BadInput, match="no other class"):
        conditions.other(None, torch.rand(2))


def test_a_model_without_a_null_label_says_so():
    with pytest.raises(BadInput, match="no null condition"):
        ClassConditions(3, None).null(torch.tensor([0]))


def test_missing_labels_are_named():
    with pytest.raises(BadInput, match="the data has no labels"):
        ClassConditions(3, 3).null(None)


def test_every_label_is_led_to_its_own_anchor_or_to_the_common_one():
    conditions = ClassConditions(5, 5, anchor=4, anchors=((0, 3), (1, 2)))
    assert conditions.anchored(torch.tensor([0, 1, 2, 0])).tolist() == [3, 2, 4, 3]
    with pytest.raises(BadInput, match="no anchor is known"):
        ClassConditions(5, 5, anchors=((0, 3),)).anchored(torch.tensor([0]))
