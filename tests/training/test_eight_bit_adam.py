"""Adam with moments in 8 bits: bitsandbytes' own where it is, and a stub of the same state for what we do with it."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.conftest import make_squares
from tests.training.test_lora_training import CONFIG, session

import erasediff
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.methods.erasediff import EraseDiff
from erasediff.solver import rules
from erasediff.training import checkpoint
from erasediff.training.checkpoint import load_optimizer, optimizer_tensors
from erasediff.training.loop import _restore, snapshot, take_step

FULL = {"rank": None, "lora_alpha": None}
EIGHT = {"use_8bit_adam": True, **FULL}


class Stub(torch.optim.Optimizer):
    """Bytes, scales and tables by parameter, and the steps as a plain int: the layout of AdamW8bit's state."""

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "state1": torch.zeros_like(p, dtype=torch.uint8), "absmax1": torch.zeros(1)}
                if type(state["step"]) is not int:
                    raise TypeError("the kernel takes a plain number")
                state["step"] += 1
                state["absmax1"] = state["absmax1"] + p.grad.abs().max()
                state["state1"] += 1
                p -= group["lr"] * p.grad.sign() * state["state1"] / (1 + state["absmax1"])


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", SimpleNamespace(AdamW8bit=Stub))


def go_on_from_a_checkpoint(tmp_path):
    unbroken = session(**EIGHT)
    for _ in range(4):
        take_step(unbroken)
    first = session(**EIGHT)
    for _ in range(2):
        take_step(first)
    place = checkpoint.save(tmp_path, snapshot(first), limit=1)
    assert {f.suffix for f in place.iterdir()} == {".safetensors", ".json"}
    second = session(**EIGHT)
    _restore(second, checkpoint.read(place))
    for _ in range(2):
        take_step(second)
    for name, weight in unbroken.trained.items():
        assert torch.equal(weight, second.trained[name]), name
    return unbroken


def test_a_checkpoint_keeps_bytes_and_counts(stub, tmp_path):
    assert type(go_on_from_a_checkpoint(tmp_path).optimizer) is Stub


def test_bitsandbytes_goes_on_from_a_checkpoint(tmp_path):
    pytest.importorskip("bitsandbytes")
    made = go_on_from_a_checkpoint(tmp_path)
    assert type(made.optimizer).__name__ == "AdamW8bit"
    assert {made.optimizer.state[p]["state1"].dtype for p in made.trained.values()} == {torch.float32}  # small ones


def test_bitsandbytes_keeps_bytes_of_large_weights():
    optim = pytest.importorskip("bitsandbytes").optim
    p = torch.nn.Parameter(torch.randn(64, 64))
    made, again = optim.AdamW8bit([p], lr=1e-2), optim.AdamW8bit([p], lr=1e-2)
    p.grad = torch.randn(64, 64)
    made.step()
    saved, weight = {n: t.clone() for n, t in optimizer_tensors(made, {"w": p}).items()}, p.detach().clone()
    assert saved["w/state1"].dtype == torch.uint8
    made.step()
    expected = p.detach().clone()
    with torch.no_grad():
        p.copy_(weight)
    load_optimizer(again, {"w": p}, saved)
    again.step()
    assert torch.equal(p, expected)


def test_bitsandbytes_steps_about_as_adam():
    pytest.importorskip("bitsandbytes")
    plain, rounded = session(**FULL), session(**EIGHT)
    before = [w.detach().clone() for w in plain.trained.values()]
    for _ in range(5):
        take_step(plain)
        take_step(rounded)
    moved = torch.cat([(a - b).flatten() for a, b in zip(plain.trained.values(), before, strict=True)])
    other = torch.cat([(a - b).flatten() for a, b in zip(rounded.trained.values(), before, strict=True)])
    assert torch.nn.functional.cosine_similarity(moved, other, dim=0) > 0.9


def test_moments_are_not_handed_out(stub):
    assert session(**EIGHT).context.moments() is None


@pytest.mark.parametrize("rule", [name for name, rule in rules.RULES.items() if "moments" in rule.needs])
def test_rules_that_reckon_with_moments_are_refused(stub, rule, tmp_path):
    method, asked = EraseDiff(rule=rule), {"use_8bit_adam": True, "output_dir": tmp_path / "run", "quiet": True}
    with pytest.raises(BadInput, match=rf"rule {rule} reckons with Adam's own moments"):
        erasediff.erase(TINY["unet2d"]().pipeline(), "class:1", make_squares(), method, **asked)
    assert not (tmp_path / "run").exists()


def test_without_bitsandbytes_the_extra_is_named_and_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    asked = {"use_8bit_adam": True, "output_dir": tmp_path / "run", "quiet": True}
    with pytest.raises(BadInput, match=r"use_8bit_adam needs bitsandbytes.*erasediff\[memory\]"):
        erasediff.erase(TINY["unet2d"]().pipeline(), "class:1", make_squares(), **asked)
    assert not (tmp_path / "run").exists()


def test_a_version_without_a_kernel_here(monkeypatch):
    class Absent(Stub):
        def step(self, closure=None):
            raise RuntimeError("no kernel for cpu")

    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", SimpleNamespace(AdamW8bit=Absent))
    with pytest.raises(BadInput, match=r"use_8bit_adam does not work on cpu .*: no kernel for cpu; leave it out"):
        session(**EIGHT)


def test_the_extra_that_is_named_exists():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert any(entry.startswith("bitsandbytes") for entry in project["optional-dependencies"]["memory"])


def test_a_run_of_before_the_flags_can_be_resumed(tmp_path):
    from erasediff.api.directory import RunDirectory
    from erasediff.api.run import resumed
    from erasediff.files import read_json, write_json

    few = {"max_train_steps": 2, "checkpointing_steps": 1, "train_batch_size": 4, "quiet": True}
    run = erasediff.erase(TINY["unet2d"]().pipeline(), "class:1", make_squares(), output_dir=tmp_path / "run", **few)
    place = RunDirectory(tmp_path / "run")
    older = read_json(place.record)
    for name in ("use_8bit_adam", "quantize"):
        del older["training"][name]
    write_json(place.record, older)
    assert resumed(place, run.record, "latest").step == 2
    changed = {**run.record, "training": {**run.record["training"], "use_8bit_adam": True}}
    with pytest.raises(BadInput, match=r"its use_8bit_adam was False, now given True"):
        resumed(place, changed, "latest")


def test_defaults_are_as_before():
    assert replace(CONFIG).use_8bit_adam is False and CONFIG.quantize is None
