"""How far the model moved: its weights, and its images from the same seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import sqrt

from torch import Tensor

from erasediff.auditing.measuring import mean_measurement
from erasediff.auditing.result import ERASED, Measurement
from erasediff.errors import BadInput, listing, unknown

HIGHER_IS_BETTER = {"retain": False, "forget": True}
"""Images of retained classes should stay; images of the target should not."""


def parameter_change(
    base_state: Mapping[str, Tensor], state: Mapping[str, Tensor], *, subject: str = ERASED
) -> list[Measurement]:
    """``parameter_change``: ||theta - theta_0|| / ||theta_0|| over all floating-point tensors, without an interval.

    ``detail["layers"]`` maps each block ("down_blocks.0", "mid_block", "time_embedding") to its own relative change. A
    block that was all zeros is compared with its new norm (1 if it moved). ``n`` counts weights. Raises BadInput where
    the two states differ in names or shapes, or where a weight is not finite.
    """
    _same_layout(base_state, state)
    moved: dict[str, float] = defaultdict(float)
    base: dict[str, float] = defaultdict(float)
    new: dict[str, float] = defaultdict(float)
    count = 0
    for name, before in base_state.items():
        if not before.is_floating_point():
            continue
        theta_0, theta = before.detach().cpu().double(), state[name].detach().cpu().double()
        block = _block(name)
        moved[block] += float((theta - theta_0).square().sum())
        base[block] += float(theta_0.square().sum())
        new[block] += float(theta.square().sum())
        count += theta.numel()
    value = _ratio(sum(moved.values()), sum(base.values()), sum(new.values()))
    if not value < float("inf"):
        raise BadInput("parameter change needs finite weights; at least one is NaN or infinite")
    return [
        Measurement(
            name="parameter_change",
            group="drift",
            subject=subject,
            value=value,
            n=count,
            higher_is_better=False,
            detail={"layers": {b: _ratio(moved[b], base[b], new[b]) for b in moved}},
        )
    ]


def image_change(
    base_images: Tensor, images: Tensor, group: str, *, subject: str = ERASED, seed: int
) -> list[Measurement]:
    """``image_change_retain`` or ``image_change_forget``: mean absolute difference of images from the same seeds.

    Both [N, C, H, W] in [-1, 1], row i of each from the same noise and condition; the value is in [0, 1] (a full swing
    from black to white is 1). The bootstrap interval resamples pairs. Raises BadInput for unequal shapes.
    """
    if group not in HIGHER_IS_BETTER:
        raise unknown("group of images", group, HIGHER_IS_BETTER)
    if base_images.shape != images.shape or images.ndim != 4 or len(images) == 0:
        raise BadInput(
            f"paired images need equal shapes [N, C, H, W]; got {[*base_images.shape]} and {[*images.shape]}"
        )
    difference = (images.detach().cpu().double() - base_images.detach().cpu().double()).abs() / 2
    per_pair = difference.flatten(start_dim=1).mean(dim=1).numpy()
    return [
        mean_measurement(
            f"image_change_{group}",
            "drift",
            subject,
            per_pair,
            seed=seed,
            higher_is_better=HIGHER_IS_BETTER[group],
            detail={"of": group, "unit": "mean absolute difference, images in [0, 1]"},
        )
    ]


def _block(parameter: str) -> str:
    """The block a weight belongs to: ``down_blocks.0.resnets.1.conv1.weight`` -> ``down_blocks.0``."""
    first, *rest = parameter.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first


def _ratio(moved: float, base: float, new: float) -> float:
    return sqrt(moved / (base or new or 1.0))


def _same_layout(base_state: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(base_state.keys() - state.keys()), sorted(state.keys() - base_state.keys())
    if missing or extra:
        raise BadInput(f"the models differ: missing {listing(missing[:3])}; only in the new one {listing(extra[:3])}")
    other = [k for k in base_state if base_state[k].shape != state[k].shape]
    if other:
        shapes = f"{[*base_state[other[0]].shape]} and {[*state[other[0]].shape]}"
        raise BadInput(f"the models differ: {other[0]} has the shapes {shapes}")
    if not any(v.is_floating_point() for v in base_state.values()):
        raise BadInput("parameter change needs at least one floating-point weight")
