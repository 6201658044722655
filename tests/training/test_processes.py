"""Two processes take the step that one takes with the same batch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tests.conftest import make_squares

from erasediff.families import tiny


@pytest.mark.slow
@pytest.mark.parametrize("weights", [[], ["--rank", "2"]], ids=["whole", "LoRA"])
def test_two_processes_agree_with_one(tmp_path, weights):
    tiny.unet2d().save(tmp_path / "base")
    data = make_squares()
    np.savez(tmp_path / "d.npz", images=data.images[:, 0].numpy(), labels=data.labels.numpy())
    erase = ["erase", str(tmp_path / "base"), "--data", str(tmp_path / "d.npz"), "--target", "class:1"]
    erase += ["--max_train_steps", "4", "--quiet", "--method.rule", "value_barrier", *weights]
    one = [sys.executable, "-m", "erasediff", *erase, "--train_batch_size", "8", "--output_dir", str(tmp_path / "one")]
    # On CPUs `accelerate launch` starts one process unless MPI is there; torchrun sets what accelerate reads.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m", "erasediff"]
    two = [*launch, *erase, "--train_batch_size", "4", "--output_dir", str(tmp_path / "two")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    for command in (one, two):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    first, other = rows[0][0], rows[1][0]
    for entry in ("retain_loss", "forget_loss", "slack", "multiplier", "grad_norm"):
        assert first[entry] == pytest.approx(other[entry], rel=1e-5, abs=1e-9), entry
    assert rows[0][-1]["forget_loss"] == pytest.approx(rows[1][-1]["forget_loss"], rel=1e-2)
    assert len(rows[1]) == 4
