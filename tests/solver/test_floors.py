from __future__ import annotations

import pytest
import torch

from erasediff.errors import BadInput
from erasediff.solver.floors import drawn_teacher_floor, uniform_noise_floor

from ._pairs import drawn


def least_loss(targets: torch.Tensor) -> torch.Tensor:
    """Per sample [B]: the mean squared error of the best predictor free at every input, found by descent.

    ``targets``: [C, B, D], equally likely; the predictor sees the sample, not which of the C was drawn.
    """
    predictor = torch.zeros_like(targets[0], requires_grad=True)
    optimizer = torch.optim.SGD([predictor], lr=0.25)
    for _ in range(200):
        optimizer.zero_grad()
        (predictor - targets).square().mean(0).sum().backward()
        optimizer.step()
    return (predictor.detach() - targets).square().mean(2).mean(0)


def test_uniform_noise():
    draws = torch.rand(20_000, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # Four standard errors of (u - 1/2)^2, whose variance is 1/180.
    assert abs(least_loss(draws).mean() - uniform_noise_floor()) < 4 * (1 / 180 / 20_000) ** 0.5


def test_a_fixed_teacher_can_be_met():
    teacher = drawn(0, 1, 3, 8)
    assert least_loss(teacher).max() < 1e-20
    assert drawn_teacher_floor(teacher[0], teacher[0]).eq(0).all()


def test_a_drawn_class_leaves_the_variance_across_classes():
    teacher = drawn(1, 5, 3, 8) * torch.tensor([0.0, 1.0, 10.0]).double()[:, None]
    variance = teacher.var(0, correction=0).mean(1)
    torch.testing.assert_close(least_loss(teacher), variance, rtol=1e-9, atol=1e-15)
    # Two independent uniform draws: all 25 pairs are equally likely, and their mean is the expectation.
    pairs = [drawn_teacher_floor(a, b) for a in teacher for b in teacher]
    torch.testing.assert_close(torch.stack(pairs).mean(0), variance, rtol=1e-12, atol=0)
    assert (variance[1:] > 0).all() and variance[0] == 0


def test_classes_drawn_per_sample_with_any_odds():
    odds = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    teacher = drawn(2, 3, 4, 6)
    mean = (odds[:, None, None] * teacher).sum(0)
    variance = (odds[:, None, None] * (teacher - mean).square()).sum(0).mean(1)
    expected = sum(odds[i] * odds[j] * drawn_teacher_floor(teacher[i], teacher[j]) for i in range(3) for j in range(3))
    torch.testing.assert_close(expected, variance, rtol=1e-12, atol=0)


def test_shape_dtype_and_refusal():
    image = torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    floor = drawn_teacher_floor(image, image + 1)
    assert floor.dtype == torch.float32 and floor.tolist() == [0.5, 0.5]
    with pytest.raises(BadInput, match=r"got \[2, 3\] and \[1, 3\]"):
        drawn_teacher_floor(torch.zeros(2, 3), torch.zeros(1, 3))
