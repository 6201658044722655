"""Pruning: does the target come back when the smallest weights are set to 0?

Global magnitude pruning (Han et al. 2015, arXiv:1506.02626) takes away first what carries least; an erasure made of
many small changes goes with it (cf. Zhang et al. 2024, arXiv:2410.16454, on rounding).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.utils import prune

from erasediff.auditing.attacks.asking import asked_again, asking_cost, at_least
from erasediff.auditing.attacks.base import FEWEST_SAMPLES, FORGETFUL, Scene, needs
from erasediff.auditing.finding import Finding
from erasediff.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Set the smallest ``shares`` of the weights of a copy to 0 and ask for the target: ``attack_success_pruned_{%}``.

    Raises BadInput for budgets that measure nothing and for shares that are not whole percents between 0 and 1.
    """

    shares: tuple[float, ...] = (0.1, 0.3)
    samples: int = 150

    name: ClassVar[str] = "pruning"
    SUMMARY: ClassVar[str] = "set the smallest 10 % and 30 % of the weights to 0 and ask for the target"
    PAPER: ClassVar[str] = "arXiv:1506.02626"
    SUBJECTS: ClassVar[tuple[str, ...]] = FORGETFUL
    WITHOUT_IMAGES: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least("the number of shares", len(self.shares), 1)
        at_least("samples", self.samples, FEWEST_SAMPLES)
        for share in self.shares:
            _check_share(share)
            if abs(100 * share - round(100 * share)) > 1e-9:  # the name says the percentage
                raise BadInput(f"shares are whole percents, got {share}")

    def refusal(self, scene: Scene) -> str | None:
        return needs(scene, judge=True, classes=True)

    def cost(self, scene: Scene) -> int:
        return len(self.shares) * asking_cost(scene, self.samples)

    def run(self, scene: Scene) -> list[Finding]:
        return [
            asked_again(
                scene,
                pruned(scene.model.denoiser, share),
                self.samples,
                kind=self.name,
                attack=f"{self.name} ({round(100 * share)} %)",
                what=f"pruned_{round(100 * share)}",
                detail={"share": share, "scheme": "smallest magnitude among all weights together"},
            )
            for share in self.shares
        ]


def pruned(module: nn.Module, share: float) -> nn.Module:
    """A copy of ``module`` with that share of its weights, the smallest in magnitude of all together, set to 0.

    Weights are what has two dimensions or more, as in quantisation. Raises BadInput unless 0 < share < 1.
    """
    _check_share(share)
    thinned = copy.deepcopy(module)
    weights = [
        (part, name)
        for part in thinned.modules()
        for name, weight in part.named_parameters(recurse=False)
        if weight.dim() >= 2
    ]
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=share)
    for part, name in weights:
        prune.remove(part, name)
    return thinned


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise BadInput(f"the share of pruned weights must lie between 0 and 1, got {share}")
