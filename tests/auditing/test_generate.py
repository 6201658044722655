"""Start noise in runs: one for each sampling seed, paired between models."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from erasediff.auditing.drawing import Subject, judged
from erasediff.auditing.generate import runs_of, start_noise
from erasediff.families.tiny import TINY
from tests.auditing._scene import SUITE, scene


@pytest.mark.parametrize(("count", "seeds"), [(1, 1), (1, 5), (7, 3), (250, 2), (500, 3), (4, 4)])
def test_runs_part_the_rows(count, seeds):
    runs = runs_of(count, seeds)
    lengths = [r.stop - r.start for r in runs]
    assert sum(lengths) == count and min(lengths) >= 1 and max(lengths) - min(lengths) <= 1
    assert [i for r in runs for i in range(r.start, r.stop)] == list(range(count))


def test_a_run_is_what_its_seed_draws_alone_and_runs_differ():
    model = TINY["unet2d"]()
    three = start_noise(model, 9, seed=4, kind="forget", sampling_seeds=3)
    assert torch.equal(three[:3], start_noise(model, 3, seed=4, kind="forget"))
    assert not any(torch.equal(three[a], three[b]) for a in range(9) for b in range(a))
    assert torch.equal(three, start_noise(model, 9, seed=4, kind="forget", sampling_seeds=3))


def test_shares_say_what_each_seed_gave():
    asked = scene(suite=replace(SUITE, sampling_seeds=3))
    found = {f.measurement.name: f.measurement for f in judged(Subject("erased", asked.model, asked.question))}
    for name in ("forget_rate", "forget_rate_faithful", "forget_rate_unconditional", "retain_accuracy"):
        share = found[name]
        runs = runs_of(share.n, 3)
        assert len(share.detail["by_seed"]) == 3
        weights = [r.stop - r.start for r in runs]
        assert np.average(share.detail["by_seed"], weights=weights) == pytest.approx(share.value)
