"""Traces of single samples: copies among what is drawn, and losses that give a training sample away."""

import numpy as np
import pytest
import torch

from erasediff.auditing.attacks.extraction import copied
from erasediff.auditing.attacks.scores import denoising_losses
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY


def noise(count, seed):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_copy_is_found_and_named_and_a_fresh_image_is_not():
    forgotten, retained = noise(5, 0), noise(100, 1)
    drawn = torch.cat([forgotten[[3, 1]] + 0.01, noise(4, 2), retained[:2]])
    assert copied(drawn, forgotten, retained).tolist() == [3, 1, -1, -1, -1, -1, -1, -1]


def test_a_blank_image_is_no_copy_where_the_retained_ones_are_as_near():
    forgotten = torch.full((1, 1, 8, 8), -0.9)
    retained = torch.full((60, 1, 8, 8), -0.95) + 0.05 * noise(60, 3)
    assert copied(torch.full((1, 1, 8, 8), -0.93), forgotten, retained).tolist() == [-1]


def test_the_slow_obvious_way_agrees():
    drawn, forgotten, retained = noise(30, 4), noise(7, 5), noise(80, 6)
    drawn[:10] = 0.6 * drawn[:10] + 0.4 * forgotten[0]
    expected = []
    for x in drawn:
        distances = [float((x - y).norm()) for y in forgotten]
        around = sorted(float((x - y).norm()) for y in retained)[:50]
        nearest = int(np.argmin(distances))
        expected.append(nearest if distances[nearest] < 0.5 * np.mean(around) else -1)
    assert copied(drawn, forgotten, retained).tolist() == expected


def test_nothing_to_compare_is_refused():
    with pytest.raises(BadInput, match="got 0, 1 and 1"):
        copied(noise(0, 0), noise(1, 0), noise(1, 0))


@pytest.mark.parametrize("family", ["unet2d-unconditional", "unet2d", "unet2d-sample"])
def test_losses_are_those_of_the_model_and_do_not_depend_on_company(family):
    model = TINY[family]()
    images = noise(6, 0)
    labels = torch.tensor([0, 1, 2, 3, 0, 1]) if model.conditions.num_classes else None
    together = denoising_losses(model, images, labels, seed=0)
    alone = denoising_losses(model, images[2:3], None if labels is None else labels[2:3], seed=0)
    assert together.shape == (6,)
    assert together[2] == pytest.approx(alone[0], rel=1e-5)
    assert not np.allclose(together, denoising_losses(model, images, labels, seed=1))
