from __future__ import annotations

import pytest
import torch
from torch import Tensor

from erasediff.errors import BadInput
from erasediff.solver import multiplier
from erasediff.solver.adam import Moments, adam_multiplier
from erasediff.solver.gram import gram
from erasediff.solver.multiplier import Guard
from erasediff.solver.rules import RULES, RuleInputs, find

from ._pairs import drawn, pair

NAMES = [
    "dynamic_barrier",
    "projected_barrier",
    "value_barrier",
    "adam_barrier",
    "adam_metric",
    "cosine",
    "constant",
    "mgda",
    "pcgrad",
    "imtl_g",
    "aligned_mtl",
    "cagrad",
    "nash_mtl",
    "upgrad",
    "munba",
]
THROUGH_TORCHJD = {"mgda", "pcgrad", "aligned_mtl"}
PARALLEL = drawn(0, 2, 3)
PAIRS = {
    "ordinary": (drawn(1, 2, 3), drawn(2, 2, 3)),
    "parallel": (PARALLEL, 2 * PARALLEL),
    "opposed": (PARALLEL, -2 * PARALLEL),
    "no retain": (torch.zeros_like(PARALLEL), PARALLEL),
    "no forget": (PARALLEL, torch.zeros_like(PARALLEL)),
    "nothing": (torch.zeros_like(PARALLEL), torch.zeros_like(PARALLEL)),
    "tiny": (1e-20 * PARALLEL, 1e-20 * drawn(3, 2, 3)),
    "huge": (1e20 * PARALLEL, 1e20 * drawn(3, 2, 3)),
    "apart": (1e6 * PARALLEL, 1e-6 * drawn(3, 2, 3)),
}


def inputs(like: Tensor, **more: object) -> RuleInputs:
    zeros = torch.zeros_like(like)
    moments = Moments(first=[zeros], second=[zeros], steps=0, beta1=0.9, beta2=0.999, eps=1e-8)
    return RuleInputs(**{"eta": 0.5, "slack": torch.tensor(0.3), "moments": moments, **more})


def test_the_table():
    assert sorted(RULES) == sorted(NAMES)
    assert all(rule.name == name and rule.reference for name, rule in RULES.items())
    assert {n for n, r in RULES.items() if r.claims_barrier} == {
        "dynamic_barrier",
        "projected_barrier",
        "value_barrier",
        "adam_barrier",
        "adam_metric",
    }
    assert {n for n, r in RULES.items() if r.reproduction} == {"cosine", "constant"}
    assert find("value_barrier").needs == {"slack"} and find("adam_metric").needs == {"moments"}
    with pytest.raises(BadInput, match="unknown rule 'dynamic_barier' \\(did you mean dynamic_barrier"):
        find("dynamic_barier")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_rule_is_finite_on_every_pair(name, kind, dtype):
    # In fp32 products of 1e20 overflow, as they would in the optimiser.
    shrink = 1e-5 if kind == "huge" and dtype == torch.float32 else 1.0
    g_r, g_f = ((shrink * x).to(dtype) for x in PAIRS[kind])
    weighed = find(name).weigh([g_r], [g_f], inputs(g_r))
    assert weighed.weights.shape == (2,) and weighed.weights.dtype == torch.float64
    assert weighed.weights.isfinite().all()
    assert set(weighed.log) == {"multiplier", "retain_weight", "guard", "cosine", "retain_norm", "forget_norm"}
    assert all(entry.shape == () and entry.isfinite() for entry in weighed.log.values())
    assert weighed.log["multiplier"] == weighed.weights[1] and weighed.log["guard"] == 0
    if find(name).claims_barrier or find(name).reproduction:
        assert weighed.weights[0] == 1 and weighed.weights[1] >= 0


@pytest.mark.parametrize("name", sorted(set(NAMES) - THROUGH_TORCHJD))
def test_no_rule_of_ours_waits_for_the_device(name):
    # A meta tensor holds no values: whoever asks for one (`.item()`, `float()`, `if tensor`) fails.
    g = torch.empty(4, 3, device="meta")
    given = inputs(g, slack=torch.empty((), device="meta"), tolerance=0.1, norm_floor=1e-8, cap=100.0)
    assert find(name).weigh([g], [g], given).weights.shape == (2,)


def test_the_table_calls_the_named_functions():
    g_r, g_f = pair(0, 0.04, 1.0, 0.3)
    G, slack = gram([[g_r], [g_f]]), torch.tensor(0.7)
    moments = Moments(first=[-5 * g_f], second=[g_r.square()], steps=9, beta1=0.9, beta2=0.999, eps=1e-8)
    given = RuleInputs(eta=0.2, value=0.9, slack=slack, moments=moments)
    wanted = {
        "dynamic_barrier": multiplier.dynamic_barrier(G, eta=0.2),
        "projected_barrier": multiplier.projected_barrier(G, eta=0.2),
        "value_barrier": multiplier.value_barrier(G, eta=0.2, slack=slack),
        "cosine": multiplier.cosine_rule(G, eta=0.2),
        "constant": torch.tensor(0.9).double(),
        "adam_barrier": adam_multiplier([g_r], [g_f], moments, eta=0.2),
        "adam_metric": adam_multiplier([g_r], [g_f], moments, eta=0.2, momentum=False),
    }
    assert len({float(x) for x in wanted.values()}) == len(wanted)
    for name, want in wanted.items():
        torch.testing.assert_close(find(name).weigh([g_r], [g_f], given).weights[1], want.double(), rtol=1e-7, atol=0)


def test_missing_inputs_are_named():
    g = [torch.ones(2)]
    with pytest.raises(BadInput, match="rule 'value_barrier' needs the slack"):
        find("value_barrier").weigh(g, g, RuleInputs())
    with pytest.raises(BadInput, match="rule 'adam_barrier' needs the moments of Adam"):
        find("adam_barrier").weigh(g, g, RuleInputs())
    with pytest.raises(BadInput, match="eta must not be negative, got -1"):
        RuleInputs(eta=-1.0)


def test_guards_reach_the_log():
    g_r, g_f = pair(0, -1.0, 1.0, 1e-3)
    for name in ("dynamic_barrier", "adam_barrier"):
        log = find(name).weigh([g_r], [g_f], inputs(g_r, cap=1e-3)).log
        assert log["multiplier"] == 1e-3 and Guard(int(log["guard"])) == Guard.CAP
    # Floor and cap are no part of what was released; the tolerance is an instruction to every rule.
    log = find("constant").weigh([g_r], [g_f], inputs(g_r, cap=1e-3, norm_floor=0.1)).log
    assert log["multiplier"] == 1 and log["guard"] == 0
    for name in NAMES:
        log = find(name).weigh([g_r], [g_f], inputs(g_r, tolerance=1.0)).log
        assert log["multiplier"] == 0 and Guard(int(log["guard"])) == Guard.SKIP


@pytest.mark.parametrize("name", NAMES)
def test_shards_of_the_gradients_give_the_weights_of_the_whole(name):
    """Two ranks, each with half of the parameters, in lock step: the sum over ranks is all they exchange."""
    g_r, g_f, m = (list(drawn(i, 6, 3)) for i in (4, 5, 6))
    v = [x.square() + 0.1 for x in drawn(7, 6, 3)]

    def given(rows: slice, reduce: object) -> RuleInputs:
        moments = Moments(first=m[rows], second=v[rows], steps=3, beta1=0.9, beta2=0.999, eps=1e-8)
        return RuleInputs(eta=2.0, slack=torch.tensor(0.3), moments=moments, reduce=reduce)

    whole = find(name).weigh(g_r, g_f, given(slice(None), lambda x: x)).weights
    first, second = slice(0, 3), slice(3, 6)
    rounds: list[Tensor] = []
    # Replay: rank 1 answers the k-th exchange from what it saw of the first k - 1.
    got = None
    for _ in range(20):
        partial: list[Tensor] = []

        def exchange(mine: Tensor, partial: list[Tensor] = partial) -> Tensor:
            partial.append(mine)
            return rounds[len(partial) - 1] if len(partial) <= len(rounds) else mine

        find(name).weigh(g_r[second], g_f[second], given(second, exchange))
        theirs = partial
        mine_seen: list[Tensor] = []

        def join(mine: Tensor, seen: list[Tensor] = mine_seen, theirs: list[Tensor] = theirs) -> Tensor:
            seen.append(mine)
            k = len(seen) - 1
            return rounds[k] if k < len(rounds) else mine + theirs[k]

        got = find(name).weigh(g_r[first], g_f[first], given(first, join)).weights
        if len(rounds) == len(mine_seen):
            break
        k = len(rounds)
        rounds.append(mine_seen[k] + theirs[k])
    torch.testing.assert_close(got, whole, rtol=1e-9, atol=1e-12)
