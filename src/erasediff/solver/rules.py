"""The table of rules: how two gradients are weighed, found by name.

Every rule is called in one form, ``find(name).weigh(g_r, g_f, inputs)``, whatever it needs: the Gram matrix, the slack
or Adam's moments. ``claims_barrier`` marks the rules under which the forget loss must fall, to first order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from erasediff.errors import BadInput, unknown
from erasediff.solver import multiplier, weighting
from erasediff.solver.adam import Moments, adam_multiplier
from erasediff.solver.gram import Gradients, Reduce, cosine, gram, whole


@dataclass(frozen=True, kw_only=True)
class RuleInputs:
    """What rules read besides the gradients; each reads what it needs.

    Args:
        eta: how hard a barrier pushes; the bound of ``cosine``. A 0-dim tensor where it depends on the step: not looked
            at, or the step would wait for the device.
        value: the multiplier of ``constant``.
        slack: L_f - min L_f, 0-dim; ``None`` where unknown.
        moments: Adam's state before the step; ``None`` under another optimiser.
        norm_floor, cap, tolerance: see :func:`erasediff.solver.multiplier.guard`.
        c: radius of ``cagrad``.
        xi: regulariser of ``munba``.
        reduce: sum over shards of the gradients.
    """

    eta: float | Tensor = 1.0
    value: float = 1.0
    slack: Tensor | None = None
    moments: Moments | None = None
    norm_floor: float = 0.0
    cap: float = math.inf
    tolerance: float | None = None
    c: float = 0.5
    xi: float = 0.0
    reduce: Reduce = whole

    def __post_init__(self) -> None:
        for name in ("eta", "norm_floor", "cap", "c", "xi"):
            if not (isinstance(value := getattr(self, name), Tensor) or value >= 0):
                raise BadInput(f"{name} must not be negative, got {value}")


class Situation(NamedTuple):
    """All that a rule may read: both gradients, their Gram matrix [2, 2] and the inputs."""

    g_r: Gradients
    g_f: Gradients
    gram: Tensor
    inputs: RuleInputs


class Weighed(NamedTuple):
    """Weights [2] of (g_r, g_f), fp64, and entries for the log, 0-dim tensors each."""

    weights: Tensor
    log: dict[str, Tensor]


@dataclass(frozen=True)
class Rule:
    """One way to weigh retain against forget.

    Args:
        solve: weights [2] of a situation, before guards.
        needs: names of the inputs that must be given.
        claims_barrier: <g_f, step> >= a is claimed wherever no guard fired and g_f is not 0.
        reproduction: exists to reproduce released code, not to be recommended.
        reference: the paper and the formula.
    """

    name: str
    solve: Callable[[Situation], Tensor]
    needs: frozenset[str] = frozenset()
    claims_barrier: bool = False
    reproduction: bool = False
    reference: str = ""

    def weigh(self, g_r: Gradients, g_f: Gradients, inputs: RuleInputs) -> Weighed:
        """Weigh two gradients. Floor and cap guard the rules that divide by ||g_f||^2; the tolerance skips in all.

        The log holds ``multiplier`` (the weight of g_f), ``retain_weight``, ``guard`` (bits of
        :class:`~erasediff.solver.multiplier.Guard`), ``cosine``, ``retain_norm`` and ``forget_norm``.

        Raises:
            BadInput: an input that this rule needs is missing.
        """
        for need in self.needs:
            if getattr(inputs, need) is None:
                raise BadInput(f"rule {self.name!r} needs {NEEDS[need]}")
        matrix = gram([g_r, g_f], reduce=inputs.reduce)
        weights = self.solve(Situation(g_r, g_f, matrix, inputs))
        norm_floor, cap = (inputs.norm_floor, inputs.cap) if self.claims_barrier else (0.0, math.inf)
        guarded = multiplier.guard(
            weights[1], matrix, norm_floor=norm_floor, cap=cap, slack=inputs.slack, tolerance=inputs.tolerance
        )
        norms = matrix.diagonal().sqrt()
        log = {
            "multiplier": guarded.multiplier,
            "retain_weight": weights[0],
            "guard": guarded.fired,
            "cosine": cosine(matrix),
            "retain_norm": norms[0],
            "forget_norm": norms[1],
        }
        return Weighed(torch.stack([weights[0], guarded.multiplier]), log)


NEEDS: Mapping[str, str] = {
    "slack": "the slack, but the least forget loss of this target is unknown",
    "moments": "the moments of Adam: train with adam or adamw, or choose dynamic_barrier",
}


def _with_multiplier(lambda_: Tensor) -> Tensor:
    """[1, lambda]: d = g_r + lambda g_f."""
    return torch.stack([torch.ones_like(lambda_), lambda_])


def _value_barrier(at: Situation) -> Tensor:
    return multiplier.value_barrier(at.gram, eta=at.inputs.eta, slack=cast(Tensor, at.inputs.slack))


def _adam(at: Situation, *, momentum: bool) -> Tensor:
    moments = cast(Moments, at.inputs.moments)
    return adam_multiplier(at.g_r, at.g_f, moments, eta=at.inputs.eta, momentum=momentum, reduce=at.inputs.reduce)


_TABLE = (
    Rule(
        "dynamic_barrier",
        lambda at: _with_multiplier(multiplier.dynamic_barrier(at.gram, eta=at.inputs.eta)),
        claims_barrier=True,
        reference="EraseDiff, arXiv:2401.05779: a = eta ||g_f||^2; holds for plain gradient steps",
    ),
    Rule(
        "projected_barrier",
        lambda at: _with_multiplier(multiplier.projected_barrier(at.gram, eta=at.inputs.eta)),
        claims_barrier=True,
        reference="A-GEM's projection of g_r (arXiv:1812.00420) and eta g_f; holds for plain gradient steps",
    ),
    Rule(
        "value_barrier",
        lambda at: _with_multiplier(_value_barrier(at)),
        needs=frozenset({"slack"}),
        claims_barrier=True,
        reference="BOME, arXiv:2209.08709: a = eta max(0, slack); holds for plain gradient steps",
    ),
    Rule(
        "adam_metric",
        lambda at: _with_multiplier(_adam(at, momentum=False)),
        needs=frozenset({"moments"}),
        claims_barrier=True,
        reference="arXiv:2401.05779 in the metric of Adam's preconditioner; holds for Adam with beta1 = 0",
    ),
    Rule(
        "adam_barrier",
        lambda at: _with_multiplier(_adam(at, momentum=True)),
        needs=frozenset({"moments"}),
        claims_barrier=True,
        reference="arXiv:2401.05779 for the step of Adam, first moment included; holds for Adam",
    ),
    Rule(
        "cosine",
        lambda at: _with_multiplier(multiplier.cosine_rule(at.gram, eta=at.inputs.eta)),
        reproduction=True,
        reference="released code of arXiv:2401.05779, adaptive branch: max(0, eta - cos)",
    ),
    Rule(
        "constant",
        lambda at: _with_multiplier(multiplier.constant(at.gram, value=at.inputs.value)),
        reproduction=True,
        reference="released code of arXiv:2401.05779, default: a weighted sum",
    ),
    Rule("mgda", lambda at: weighting.mgda(at.gram), reference="arXiv:1810.04650: the shortest convex combination"),
    Rule("pcgrad", lambda at: weighting.pcgrad(at.gram), reference="arXiv:2001.06782: conflicts projected away"),
    Rule("imtl_g", lambda at: weighting.imtl_g(at.gram), reference="Liu et al. 2021: equal projections"),
    Rule("aligned_mtl", lambda at: weighting.aligned_mtl(at.gram), reference="Senushkin et al. 2023"),
    Rule("cagrad", lambda at: weighting.cagrad(at.gram, c=at.inputs.c), reference="arXiv:2110.14048"),
    Rule("nash_mtl", lambda at: weighting.nash_mtl(at.gram), reference="arXiv:2202.01017: G w = 1/w"),
    Rule("upgrad", lambda at: weighting.upgrad(at.gram), reference="arXiv:2406.16232: half of PCGrad's sum for two"),
    Rule("munba", lambda at: weighting.munba(at.gram, xi=at.inputs.xi), reference="arXiv:2411.15537"),
)

RULES: Mapping[str, Rule] = {rule.name: rule for rule in _TABLE}


def find(name: str) -> Rule:
    """The rule of that name.

    Raises:
        BadInput: no such rule; the message names the nearest and all that exist.
    """
    if name not in RULES:
        raise unknown("rule", name, RULES)
    return RULES[name]
