"""Saliency masks: the largest, exactly as many as asked for."""

import pytest
import torch

from erasediff.errors import BadInput
from erasediff.solver.saliency import saliency_mask


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 1.0])
def test_the_chosen_are_the_largest_and_as_many_as_asked(share):
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(7, 5, generator=generator), torch.randn(65, generator=generator)]
    masks = saliency_mask(gradients, share)
    chosen = torch.cat([m.flatten() for m in masks])
    size = torch.cat([g.flatten() for g in gradients]).abs()
    assert [m.shape for m in masks] == [g.shape for g in gradients]
    assert int(chosen.sum()) == round(share * 100)
    if not chosen.all():
        assert size[chosen].min() >= size[~chosen].max()


def test_ties_do_not_change_the_number():
    assert int(saliency_mask([torch.zeros(10)], 0.5)[0].sum()) == 5


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(BadInput, match=r"\(0, 1\]"):
        saliency_mask([torch.ones(2)], share)
