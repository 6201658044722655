"""How far weights and images moved."""

from __future__ import annotations

import json

import pytest
import torch

from erasediff.auditing.metrics.drift import image_change, parameter_change
from erasediff.errors import BadInput


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = (
        "down_blocks.0.resnets.0.conv.weight",
        "down_blocks.1.conv.weight",
        "mid_block.conv.bias",
        "conv_in.weight",
    )
    return {n: torch.randn(5, 3, generator=generator) for n in names} | {"position_ids": torch.arange(4)}


def test_unchanged_weights_have_not_moved() -> None:
    (found,) = parameter_change(state(), state())
    assert found.value == 0 and set(found.detail["layers"].values()) == {0.0}
    assert list(found.detail["layers"]) == ["down_blocks.0", "down_blocks.1", "mid_block", "conv_in"]
    assert (found.n, found.group, found.low) == (60, "drift", None)


def test_scaling_all_weights_moves_each_block_and_the_whole_alike() -> None:
    scaled = {n: v * 1.25 if v.is_floating_point() else v for n, v in state().items()}
    (found,) = parameter_change(state(), scaled)
    assert found.value == pytest.approx(0.25, abs=1e-6)
    assert list(found.detail["layers"].values()) == pytest.approx([0.25] * 4, abs=1e-6)


def test_the_block_that_moved_is_the_one_that_is_named() -> None:
    base, moved = state(), state()
    moved["mid_block.conv.bias"] = moved["mid_block.conv.bias"] + 1
    (found,) = parameter_change(base, moved)
    assert [b for b, change in found.detail["layers"].items() if change > 0] == ["mid_block"]
    whole = torch.cat([v.flatten() for v in base.values() if v.is_floating_point()]).norm()
    assert found.value == pytest.approx(15**0.5 / float(whole), rel=1e-5)


def test_a_block_of_zeros_that_moved_is_finite() -> None:
    base = {"a.weight": torch.zeros(3), "b.weight": torch.ones(3)}
    (found,) = parameter_change(base, {"a.weight": torch.ones(3), "b.weight": torch.ones(3)})
    assert found.detail["layers"] == {"a": 1.0, "b": 0.0}
    json.dumps(found.detail, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"extra.weight": torch.ones(1)}, "extra.weight"),
        ({"conv_in.weight": torch.ones(3, 5)}, "conv_in.weight"),
        ({"conv_in.weight": torch.full((5, 3), float("nan"))}, "finite"),
    ],
)
def test_other_models_and_broken_weights_are_refused(change: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parameter_change(state(), state() | change)


def test_image_change_is_one_from_black_to_white() -> None:
    black, white = -torch.ones(6, 1, 8, 8), torch.ones(6, 1, 8, 8)
    (found,) = image_change(black, white, "forget", seed=0)
    assert (found.name, found.value, found.low, found.high, found.n) == ("image_change_forget", 1.0, 1.0, 1.0, 6)
    assert found.higher_is_better and not image_change(black, black, "retain", seed=0)[0].higher_is_better
    assert image_change(black, black, "retain", seed=0)[0].value == 0


def test_image_change_is_paired() -> None:
    base = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (same,) = image_change(base, base + 0.02, "retain", seed=0)
    (shuffled,) = image_change(base, base.flip(0), "retain", seed=0)
    assert same.value == pytest.approx(0.01, abs=1e-6) and shuffled.low > 10 * same.high


def test_image_change_refuses_unpaired_images_and_unknown_groups() -> None:
    with pytest.raises(BadInput, match="equal shapes"):
        image_change(torch.ones(2, 1, 8, 8), torch.ones(3, 1, 8, 8), "retain", seed=0)
    with pytest.raises(BadInput, match="did you mean retain"):
        image_change(torch.ones(2, 1, 8, 8), torch.ones(2, 1, 8, 8), "retian", seed=0)
