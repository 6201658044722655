"""A look part of the way back: which weights it sees, and that the run goes on with its own."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn


@pytest.fixture
def trial(script):
    return script("experiments/images", "trial")


@pytest.fixture
def moved():
    """A model, and where its weights started."""
    model = SimpleNamespace(denoiser=nn.Linear(2, 3))
    start = [p.detach() - 1.0 for p in model.denoiser.parameters()]
    return model, start


@pytest.mark.parametrize("way", [0.0, 0.25, 1.0])
def test_the_weights_seen_lie_on_the_line_between_start_and_end(trial, moved, way):
    model, start = moved
    with trial.part_way(model, start, way) as seen:
        for weight, first in zip(seen.denoiser.parameters(), start, strict=True):
            torch.testing.assert_close(weight.detach(), first + way)


def test_the_weights_are_put_back_even_where_the_look_fails(trial, moved):
    model, start = moved
    before = [p.detach().clone() for p in model.denoiser.parameters()]
    with pytest.raises(RuntimeError, match="judge"), trial.part_way(model, start, 0.5):
        raise RuntimeError("the judge is gone")
    for weight, kept in zip(model.denoiser.parameters(), before, strict=True):
        assert torch.equal(weight, kept), "not nearly: the run goes on with them"


def test_settings_of_the_loop_go_apart_from_those_of_the_method(trial):
    found = trial.settings_of(["method=salun", "alpha=1e-3", "learning_rate=5e-4", "train_batch_size=32"])
    assert found == {"method": "salun", "alpha": 1e-3, "training": {"learning_rate": 5e-4, "train_batch_size": 32}}
