"""How much an audit measures: numbers of samples, and the attacks with their budgets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Sizes of one audit.

    ``forget``: samples conditioned on the target classes; ``per_class``: samples of each retained class;
    ``unconditional``: samples under the null condition; ``sampling_seeds``: from how many streams of start noise the
    samples are drawn, equally many from each; ``resamples``: of bootstrap intervals; ``attacks``: see
    :mod:`erasediff.auditing.attacks.base`.
    """

    name: str
    forget: int
    per_class: int
    unconditional: int
    num_inference_steps: int
    resamples: int
    sampling_seeds: int = 1
    attacks: tuple[Any, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For ``audit.json``: sizes, and each attack's name and budget."""
        attacks = [{"name": attack.name, **asdict(attack)} for attack in self.attacks]
        return {**asdict(replace(self, attacks=())), "attacks": attacks}
