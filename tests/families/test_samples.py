"""A function of one sample over a batch: mapped or one after the other, it says the same."""

from types import SimpleNamespace

import torch
from torch.func import grad

from erasediff.families import samples
from erasediff.families.samples import each

MAPPED, RAGGED = SimpleNamespace(), SimpleNamespace(RAGGED=True)


def test_both_ways_agree_on_tables_of_gradients_and_on_what_is_shared():
    weights, x = {"a": torch.randn(5), "b": torch.randn(5, 5)}, torch.randn(4, 5)

    def loss(weights, x, nothing):
        assert nothing is None
        return (weights["b"] @ x * weights["a"]).square().sum()

    one, other = (each(model, grad(loss), (None, 0, None))(weights, x, None) for model in (MAPPED, RAGGED))
    assert {name: tensor.shape for name, tensor in other.items()} == {"a": (4, 5), "b": (4, 5, 5)}
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in weights)


def test_each_sample_may_have_weights_of_its_own():
    weights, x = {"a": torch.randn(4, 5)}, torch.randn(4, 5)
    for model in (MAPPED, RAGGED):
        found = each(model, lambda w, row: w["a"] * row, (0, 0))(weights, x)
        assert torch.equal(found, weights["a"] * x)


def test_only_a_loop_takes_samples_of_unlike_lengths():
    x, words = torch.ones(3, 4), torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    assert each(RAGGED, lambda row, kept: row[kept > 0].sum(), (0, 0))(x, words).tolist() == [1, 2, 4]


def test_as_many_samples_go_at_once_as_their_gradients_fit(monkeypatch):
    weights = [torch.zeros(3, 4), torch.zeros(8)]  # 20 numbers a sample
    for room, found in ((1, 1), (39, 1), (40, 2), (100, 5), (10_000, 7)):
        monkeypatch.setattr(samples, "GRADIENTS", room)
        assert samples.at_once(weights, 7) == found
