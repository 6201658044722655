"""Latents of a run: computed once, kept beside it, gone with ``purge``; and the run is the one it would have been."""

from dataclasses import replace

import pytest
import torch

import erasediff
from erasediff.api.latents import LATENTS, latents_of
from erasediff.api.purge import purge
from erasediff.data.pairs import Pairs
from erasediff.data.targets import parse, split
from erasediff.errors import BadInput
from erasediff.families.latents import Latents
from erasediff.families.tiny import TINY
from erasediff.methods import METHODS
from erasediff.methods.base import decided
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import start, take_step
from erasediff.training.processes import Processes

FEW = {"max_train_steps": 3, "train_batch_size": 4, "checkpointing_steps": 0, "quiet": True}


@pytest.fixture
def passed(monkeypatch):
    """How many images went through an autoencoder's encoder, by the way they took."""
    counts = {"encode": 0, "moments": 0}
    for name in counts:
        real = getattr(Latents, name)

        def counted(self, images, name=name, real=real):
            counts[name] += len(images)
            return real(self, images)

        monkeypatch.setattr(Latents, name, counted)
    return counts


def weights_after(squares, method, *, cached, **changes):
    model = TINY["dit"]()
    divided = split([parse("class:1")], squares)
    model.conditions = replace(model.conditions, excluded=divided.classes, anchor=2)
    used = torch.cat([divided.retain, divided.forget])
    known = latents_of(model, squares, used, None, Processes.start(), quiet=True) if cached else None
    pairs = Pairs(squares, divided.retain, divided.forget, batch_size=4, seed=0, encoded=known)
    session = start(
        model, decided(method, model.conditions), pairs, TrainingConfig(train_batch_size=4, seed=0, **changes)
    )
    for _ in range(3):
        take_step(session)
    return torch.cat([p.detach().flatten() for p in model.denoiser.parameters()])


DRAWN = METHODS["concept_ablation"](anchor_samples=6, num_inference_steps=2)
REPLAYED = METHODS["selective_amnesia"](fisher_samples=4, fisher_timesteps=1, replay_samples=6, replay_steps=2)


@pytest.mark.parametrize("method", [METHODS["erasediff"](), METHODS["retrack"](), METHODS["siss"](), DRAWN, REPLAYED])
def test_a_run_on_kept_latents_is_the_run_on_images(squares, method):
    # The encoder works on other batches, so the last bits may differ; Adam makes steps of those of gradients near zero.
    kept, asked = (weights_after(squares, method, cached=c) for c in (True, False))
    apart = (kept - asked).abs()
    assert apart.mean() < 1e-7 and apart.max() < 1e-4


def test_draws_from_the_posterior_are_another_run_and_the_same_again(squares):
    method = METHODS["erasediff"]()
    mean = weights_after(squares, method, cached=True)
    drawn = [weights_after(squares, method, cached=True, sample_latents=True) for _ in range(2)]
    assert torch.equal(*drawn) and not torch.equal(drawn[0], mean)


def test_each_image_is_encoded_once_and_purge_takes_the_latents(squares, tmp_path, passed):
    base = TINY["dit"]().pipeline()
    run = erasediff.erase(base, "class:1", squares, output_dir=tmp_path / "run", **FEW)
    used = run.record["plan"]["forget_samples"] + run.record["plan"]["retain_samples"]
    # One more to know their shape, and one to know the autoencoder.
    assert passed == {"encode": 0, "moments": used + 2}
    assert (tmp_path / "run" / LATENTS).is_dir()
    removed, _ = purge(tmp_path / "run")
    assert tmp_path / "run" / "cache" in removed


def test_a_killed_start_is_gone_on_with_and_a_refused_one_leaves_nothing(squares, tmp_path, passed):
    base = TINY["dit"]().pipeline()
    with pytest.raises(BadInput, match="names no weight"):
        erasediff.erase(base, "class:1", squares, output_dir=tmp_path / "no", parameters="nonsense*", **FEW)
    assert not (tmp_path / "no").exists()
    # Killed between the latents and the first step: they are there, the run is not.
    erasediff.erase(base, "class:1", squares, output_dir=tmp_path / "run", **FEW)
    for name in ("run.json", "metrics.jsonl", "README.md"):
        (tmp_path / "run" / name).unlink()
    for name in ("model", "checkpoints"):
        for path in sorted((tmp_path / "run" / name).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        if (tmp_path / "run" / name).exists():
            (tmp_path / "run" / name).rmdir()
    passed["moments"] = 0
    erasediff.erase(base, "class:1", squares, output_dir=tmp_path / "run", **FEW)
    assert passed["moments"] <= 2
