from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from erasediff.errors import BadInput
from erasediff.solver.gram import combine
from erasediff.solver.inner import inner_minimum
from erasediff.solver.rules import RuleInputs, find


def quadratic(phi: list[Tensor]) -> Tensor:
    return (phi[0] - 3).square().sum() + 5


def test_it_is_gradient_descent():
    start = [torch.tensor([1.0, 3.0], dtype=torch.float64), torch.ones(2)]
    for steps in (0, 1, 4):
        # Each step of rate 0.1 multiplies the distance by 0.8; the second parameter is not used.
        want = torch.tensor(4 * 0.64**steps + 5, dtype=torch.float64)
        got = inner_minimum(quadratic, start, steps=steps, learning_rate=0.1)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
        assert got.dtype == torch.float64 and not got.requires_grad


def test_the_originals_and_their_gradients_are_left_alone():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    weight.grad = torch.tensor([7.0, 8.0])
    with torch.no_grad():
        inner_minimum(quadratic, [weight], steps=3, learning_rate=0.1)
    assert weight.tolist() == [1, 2] and weight.grad.tolist() == [7, 8]


@pytest.mark.parametrize("steps", [0, 2])
def test_not_even_a_loss_that_writes_to_its_argument_reaches_the_originals(steps):
    def writes(phi: list[Tensor]) -> Tensor:
        with torch.no_grad():
            phi[0].add_(1)
        return quadratic(phi)

    weight = torch.tensor([1.0, 2.0])
    inner_minimum(writes, [weight], steps=steps, learning_rate=0.1)
    assert weight.tolist() == [1, 2]


@pytest.mark.parametrize(("steps", "rate"), [(-1, 0.1), (1, 0.0), (1, float("nan"))])
def test_refusals(steps, rate):
    with pytest.raises(BadInput, match="inner_minimum needs"):
        inner_minimum(quadratic, [torch.ones(1)], steps=steps, learning_rate=rate)


def one_step(steps: int, rule: str) -> tuple[list[Tensor], Tensor, Tensor]:
    """Direction, slack and weights after one Adam step of a small network, its floor estimated by ``steps``."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    names, theta = zip(*net.named_parameters(), strict=True)
    x_r, x_f, y_r, y_f = torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 3), torch.randn(6, 3)

    def forget_loss(phi: list[Tensor]) -> Tensor:
        out = torch.func.functional_call(net, dict(zip(names, phi, strict=True)), (x_f,))
        return (out - y_f).square().mean()

    g_r = torch.autograd.grad((net(x_r) - y_r).square().mean(), theta)
    loss = forget_loss(list(theta))
    g_f = torch.autograd.grad(loss, theta)
    slack = loss.detach() - inner_minimum(forget_loss, theta, steps=steps, learning_rate=0.1)
    weights = find(rule).weigh(g_r, g_f, RuleInputs(eta=5.0, slack=slack)).weights
    direction = combine(weights, [g_r, g_f])
    optimizer = torch.optim.Adam(theta, lr=1e-2)
    for parameter, d in zip(theta, direction, strict=True):
        parameter.grad = d
    optimizer.step()
    return direction, slack, torch.cat([p.detach().reshape(-1) for p in theta])


def test_the_inner_loop_cannot_change_the_step_of_the_dynamic_barrier():
    none, three = one_step(0, "dynamic_barrier"), one_step(3, "dynamic_barrier")
    assert three[1] > none[1] == 0
    assert all(torch.equal(a, b) for a, b in zip(none[0], three[0], strict=True))
    assert torch.equal(none[2], three[2])


def test_but_it_does_change_that_of_the_value_barrier():
    assert not torch.equal(one_step(0, "value_barrier")[2], one_step(3, "value_barrier")[2])
