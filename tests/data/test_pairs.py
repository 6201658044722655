"""Batches are a pure function of seed and step, whatever the number of processes."""

import torch

from erasediff.data.pairs import Pairs, Rows

INDICES = torch.arange(100, 137)


def test_a_forget_batch_of_another_size_and_the_same_rows_on_several_processes(squares):
    given = {"seed": 0, "forget_batch_size": 2}
    one = Pairs(squares, torch.arange(40), torch.arange(40, 60), batch_size=8, **{**given, "forget_batch_size": 4})
    two = [
        Pairs(squares, torch.arange(40), torch.arange(40, 60), batch_size=4, rank=r, world=2, **given) for r in (0, 1)
    ]
    for step in (0, 3, 7):
        whole, shares = one.at(step), [p.at(step) for p in two]
        assert (len(whole.retain), len(whole.forget)) == (8, 4)
        for role in ("retain", "forget"):
            batch, parts = getattr(whole, role), [getattr(s, role) for s in shares]
            assert torch.equal(batch.index, torch.cat([p.index for p in parts]))
            assert [p.start for p in parts] == [0, len(parts[0])] and {p.total for p in parts} == {batch.total}


def test_an_epoch_visits_every_sample_once():
    rows = Rows(INDICES, 10, seed=3, role="retain")
    seen = torch.cat([rows.at(step) for step in range(37)])  # 370 rows: ten epochs of 37
    for epoch in range(10):
        assert sorted(seen[37 * epoch : 37 * (epoch + 1)].tolist()) == INDICES.tolist()


def test_steps_can_be_asked_in_any_order():
    forward = Rows(INDICES, 8, seed=1, role="forget")
    backward = Rows(INDICES, 8, seed=1, role="forget")
    ahead = [forward.at(step).tolist() for step in range(12)]
    assert [backward.at(step).tolist() for step in reversed(range(12))][::-1] == ahead


def test_seed_and_role_change_the_order():
    orders = [Rows(INDICES, 37, seed, role).at(0).tolist() for seed in (0, 1) for role in ("forget", "retain")]
    assert len({tuple(o) for o in orders}) == 4


def test_a_batch_larger_than_the_set_repeats_it():
    assert sorted(Rows(INDICES[:3], 7, 0, "forget").at(0).tolist())[::3] == [100, 101, 102]


def test_processes_share_the_rows_of_one_big_batch(squares):
    retain, forget = torch.arange(40), torch.arange(40, 60)
    whole = Pairs(squares, retain, forget, batch_size=8, seed=5).at(7)
    parts = [Pairs(squares, retain, forget, batch_size=4, seed=5, rank=r, world=2).at(7) for r in (0, 1)]
    for role in ("retain", "forget"):
        joined = torch.cat([getattr(p, role).index for p in parts])
        assert torch.equal(joined, getattr(whole, role).index)
        assert [getattr(p, role).start for p in parts] == [0, 4]
        assert {getattr(p, role).total for p in parts} == {8}


def test_splitting_keeps_rows_in_place(squares):
    batch = Pairs(squares, torch.arange(40), None, batch_size=8, seed=5).at(0).retain
    pieces = list(batch.split(3))
    assert [len(p) for p in pieces] == [3, 3, 2]
    assert [p.start for p in pieces] == [0, 3, 6]
    assert torch.equal(torch.cat([p.images for p in pieces]), batch.images)
    assert torch.equal(torch.cat([p.labels for p in pieces]), batch.labels)
