"""Randomness is a function of (seed, step, purpose): equal triples draw equally, any other triple differently."""

from dataclasses import replace
from itertools import product

import torch

from erasediff.data.pairs import Pairs
from erasediff.families import tiny
from erasediff.randomness import derived_seed, generator
from erasediff.training.context import Context
from erasediff.training.parameters import select
from erasediff.training.processes import Processes

GOLDEN = 391996222612941290


def test_every_triple_has_a_seed_of_its_own():
    triples = list(product(range(20), range(50), ("t", "noise", "retain/t")))
    seeds = {derived_seed(*triple) for triple in triples}
    assert len(seeds) == len(triples)
    assert all(0 <= s < 2**63 for s in seeds)
    # "1/2" and "12" must not run together
    assert derived_seed(1, 23, "x") != derived_seed(12, 3, "x")


def test_the_seeds_are_those_of_every_earlier_version():
    assert derived_seed(0, 0, "t") == GOLDEN


def test_generators_repeat():
    draws = [torch.rand(3, generator=generator(1, 2, "x")) for _ in range(2)]
    assert torch.equal(*draws)


def drawn(squares, step, seed=0, role="retain"):
    model = tiny.unet2d()
    ctx = Context(model, select(model.denoiser, "full"), Processes.start(), seed=seed, micro_batch=8)
    batch = replace(Pairs(squares, torch.arange(16), None, batch_size=8, seed=0).at(0).retain, role=role)
    ctx.begin(step)
    return ctx.noised(batch)


def test_noise_and_time_change_with_step_seed_and_role_and_with_nothing_else(squares):
    first, again = drawn(squares, 3), drawn(squares, 3)
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.t, again.t)
    for other in (drawn(squares, 4), drawn(squares, 3, seed=1), drawn(squares, 3, role="forget")):
        assert not torch.equal(first.noise, other.noise)
        assert not torch.equal(first.t, other.t)
        assert torch.equal(first.x_0, other.x_0)
