"""When a run ends before its last step, and what it says of itself then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from erasediff.training.config import TrainingConfig

SMOOTHING = 0.9
SKIPPED = "skipped"  # the entry of a step that the loss scaler skipped; a scale is found by overflowing now and then
WARM = 10  # a moving average is compared only after as many steps as it remembers


@dataclass(frozen=True)
class Stop:
    """Why a run ended: ``reason`` in one word, ``detail`` in a sentence, ``short`` of its goal or not."""

    reason: str
    detail: str
    short: bool


COMPLETED = Stop("max_train_steps", "all steps were taken", short=False)


@dataclass
class MovingAverage:
    """Exponential moving average, corrected for its start at zero."""

    total: float = 0.0
    weight: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total = SMOOTHING * self.total + (1 - SMOOTHING) * value
        self.weight = SMOOTHING * self.weight + (1 - SMOOTHING)
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.weight


class StopRule(Protocol):
    def see(self, record: Mapping[str, float]) -> Stop | None: ...
    def state(self) -> dict[str, float]: ...
    def load(self, state: Mapping[str, float]) -> None: ...


class _Watch:
    """A moving average of one entry of the record against a reference that its first steps set."""

    def __init__(self, entry: str) -> None:
        self.entry, self.average, self.reference = entry, MovingAverage(), math.nan

    def state(self) -> dict[str, float]:
        kept = {"total": self.average.total, "weight": self.average.weight, "count": self.average.count}
        return kept if math.isnan(self.reference) else {**kept, "reference": self.reference}

    def load(self, state: Mapping[str, float]) -> None:
        self.average = MovingAverage(state["total"], state["weight"], int(state["count"]))
        self.reference = state.get("reference", math.nan)


class ConstraintMet(_Watch):
    """The slack fell to ``tolerance`` times the slack of the first step (SCIENCE: relative, since floors are ideal)."""

    def __init__(self, tolerance: float) -> None:
        super().__init__("slack")
        self.tolerance = tolerance

    def see(self, record: Mapping[str, float]) -> Stop | None:
        if math.isnan(self.reference):
            self.reference = record[self.entry]
        self.average.add(record[self.entry])
        if self.average.count < WARM or self.average.value > self.tolerance * self.reference:
            return None
        said = f"slack {self.average.value:.3g} is at most {self.tolerance:g} of the first step's {self.reference:.3g}"
        return Stop("constraint_met", said, short=False)


class RetainBudget(_Watch):
    """The denoising loss of the retain set rose by more than ``budget`` over what its first steps averaged.

    Always the denoising loss, also under ``distill``, whose own loss begins at zero.
    """

    def __init__(self, budget: float) -> None:
        super().__init__("retain_denoise_loss")
        self.budget = budget

    def see(self, record: Mapping[str, float]) -> Stop | None:
        self.average.add(record[self.entry])
        if self.average.count == WARM:
            self.reference = self.average.value
        if math.isnan(self.reference) or self.average.value <= (1 + self.budget) * self.reference:
            return None
        said = f"retain loss {self.average.value:.3g} exceeds {1 + self.budget:g} times the first {self.reference:.3g}"
        return Stop("retain_budget", said, short=True)


def losses(record: Mapping[str, float]) -> dict[str, float]:
    """The entries that no gradient enters."""
    return {k: v for k, v in record.items() if k.endswith("loss") or k == "slack"}


@dataclass
class Stopping:
    """The rules that a configuration asks for, and the one that always holds: losses stay finite."""

    rules: dict[str, StopRule] = field(default_factory=dict)

    @classmethod
    def of(cls, config: TrainingConfig) -> Stopping:
        rules: dict[str, StopRule] = {}
        if config.slack_tolerance is not None:
            rules["constraint_met"] = ConstraintMet(config.slack_tolerance)
        if config.retain_budget is not None:
            rules["retain_budget"] = RetainBudget(config.retain_budget)
        return cls(rules)

    def see(self, record: Mapping[str, float]) -> Stop | None:
        """Look at one step's record; the first rule that holds ends the run."""
        watched = losses(record) if SKIPPED in record else record
        bad = [name for name, value in watched.items() if not math.isfinite(value)]
        if bad:
            return Stop("diverged", f"{bad[0]} is not finite at step {record.get('step', 0):g}", short=True)
        seen = [stop for rule in self.rules.values() if (stop := rule.see(record)) is not None]
        return seen[0] if seen else None

    def state(self) -> dict[str, dict[str, float]]:
        return {name: rule.state() for name, rule in self.rules.items()}

    def load(self, state: Mapping[str, Mapping[str, float]]) -> None:
        for name, rule in self.rules.items():
            if name in state:
                rule.load(state[name])
