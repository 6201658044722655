"""The CIFAR-10 experiment's scripts: tiles become data, shards become the model again, pieces end and go on."""

from __future__ import annotations

import io
import json
import signal
import sys
import time
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from erasediff.data import sources
from erasediff.errors import BadInput
from erasediff.families import tiny

FOLDER = "experiments/cifar10"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
CLASSES = 3


def write_part(folder, part, *, tiles=1, labels=None, side=320, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (tiles, side, side, 3), dtype=np.uint8)
    with zipfile.ZipFile(folder / f"cifar10-{part}.zip", "w") as archive:
        for number, tile in enumerate(pixels):
            buffer = io.BytesIO()
            Image.fromarray(tile).save(buffer, "webp", lossless=True)
            archive.writestr(f"tiles/{number:04}.webp", buffer.getvalue())
        buffer = io.BytesIO()
        np.save(buffer, np.arange(100 * tiles, dtype=np.uint8) % 10 if labels is None else labels)
        archive.writestr("labels.npy", buffer.getvalue())
    return pixels


def test_tiles_become_data_with_the_test_part_held_out(script, tmp_path):
    pack = script(FOLDER, "pack")
    tiles = write_part(tmp_path, "train20k", tiles=2)
    write_part(tmp_path, "test", seed=1)
    assert pack.main([str(tmp_path), str(tmp_path / "out.npz")]) == 0
    data = sources.load(str(tmp_path / "out.npz"))
    assert data.image_shape == (3, 32, 32)
    assert data.held_out.tolist() == [False] * 200 + [True] * 100
    assert (data.class_names[0], data.class_names[-1]) == ("airplane", "truck")
    assert data.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    # image 112 is in the second tile, row 1, column 2
    assert np.array_equal(data.images[112].permute(1, 2, 0).numpy(), tiles[1, 32:64, 64:96])


def test_flips_are_of_training_images_only(script, tmp_path):
    for seed, part in enumerate(("train20k", "test")):
        write_part(tmp_path, part, seed=seed)
    arrays = script(FOLDER, "pack").packed(tmp_path, ["train20k", "test"], flips=True)
    assert len(arrays["images"]) == 300
    assert np.array_equal(arrays["images"][100:200], arrays["images"][:100, :, ::-1])
    assert arrays["labels"][100:200].tolist() == arrays["labels"][:100].tolist()
    assert arrays["held_out"].sum() == 100


@pytest.mark.parametrize(
    ("parts", "broken", "said"),
    [
        (["train20k"], {}, "test and at least one of training"),
        (["test", "test"], {}, "different ones"),
        (["train20k", "tset"], {}, "did you mean test"),
        (["train-rest30k", "test"], {}, "train-rest30k.zip does not exist"),
        (["train20k", "test"], {"labels": np.zeros(7, np.uint8)}, r"integers \[100\], got uint8 \[7\]"),
        (["train20k", "test"], {"side": 300}, "every tile must be"),
        (["train20k", "test"], {"tiles": 0}, "no tile"),
    ],
)
def test_what_cannot_be_packed_says_why(script, tmp_path, parts, broken, said):
    write_part(tmp_path, "train20k")
    write_part(tmp_path, "test", **broken)
    with pytest.raises(BadInput, match=said):
        script(FOLDER, "pack").packed(tmp_path, parts)


@pytest.fixture
def shards(script, tmp_path):
    """The script, and a split miniature; shards small enough that there are several."""
    module = script(FOLDER, "shards")
    tiny.unet2d(seed=3).save(tmp_path / "model")
    assert module.main(["split", str(tmp_path / "model"), str(tmp_path / "carried"), "--mib", "0.02"]) == 0
    return module


def weight_files(tmp_path):
    return sorted((tmp_path / "carried").glob("*.safetensors"))


def test_what_is_split_joins_to_the_same_model_in_bf16(shards, tmp_path):
    files = weight_files(tmp_path)
    assert len(files) > 2
    assert max(f.stat().st_size for f in files) <= 0.02 * 2**20
    assert shards.main(["join", str(tmp_path / "carried"), str(tmp_path / "again")]) == 0
    old, new = (load_file(tmp_path / name / WEIGHTS) for name in ("model", "again"))
    assert old.keys() == new.keys()
    assert all(new[k].dtype == torch.float32 and torch.equal(new[k], old[k].bfloat16().float()) for k in old)
    for name in ("unet/config.json", "scheduler/scheduler_config.json", "pipeline.py"):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "model" / name).read_text()


def lose(tmp_path, files):
    files[1].unlink()


def damage(tmp_path, files):
    content = bytearray(files[1].read_bytes())
    content[-1] ^= 1
    files[1].write_bytes(content)


def mix(tmp_path, files):
    """A shard of the same name and size from another model."""
    tiny.unet2d(seed=4).save(tmp_path / "other")
    sys.modules["shards"].split(tmp_path / "other", tmp_path / "others", mib=0.02)
    files[1].write_bytes((tmp_path / "others" / files[1].name).read_bytes())


def reconfigure(tmp_path, files):
    """A configuration and an index that agree with each other, and not with the weights."""
    path, index = tmp_path / "carried" / "unet-config.json", tmp_path / "carried" / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "block_out_channels": [8, 16]}))
    said = json.loads(index.read_text())
    said["files"][path.name] = sys.modules["shards"].sha256(path)
    index.write_text(json.dumps(said))


def hide_index(tmp_path, files):
    (tmp_path / "carried" / "index.json").unlink()


def climb(tmp_path, files):
    """An index that names a file outside its folder."""
    index = tmp_path / "carried" / "index.json"
    index.write_text(index.read_text().replace(files[1].name, f"../{files[1].name}"))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lose, "is missing; carry every file"),
        (damage, "damaged, or of another split"),
        (mix, "damaged, or of another split"),
        (reconfigure, "cannot be read as a UNet2DModel"),
        (hide_index, "index.json does not exist"),
        (climb, "does not name the files that a split writes"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(shards, tmp_path, capsys, harm, said):
    harm(tmp_path, weight_files(tmp_path))
    assert shards.main(["join", str(tmp_path / "carried"), str(tmp_path / "again")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_nothing_is_written_over_and_nothing_is_cut_in_two(shards, tmp_path, capsys):
    model, carried = str(tmp_path / "model"), str(tmp_path / "carried")
    assert shards.main(["split", model, carried]) == 2
    assert shards.main(["join", carried, model]) == 2
    assert capsys.readouterr().err.count("is there already and not empty") == 2
    assert shards.main(["split", model, str(tmp_path / "new"), "--mib", "0.001"]) == 2
    assert "alone needs 1; give at least that" in capsys.readouterr().err


@pytest.mark.parametrize("ignored", [False, True])  # as it is for a job in the background
def test_a_piece_interrupts_itself_once_and_cleans_up(script, ignored, request):
    piece = script(FOLDER, "piece").piece
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGALRM)]
    with piece(0.001) as timer:
        assert not timer.over
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)
        assert timer.over
        with pytest.raises(KeyboardInterrupt):
            timer.check()
    with piece(0) as timer:
        timer.check()
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGALRM)]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with pytest.raises(BadInput, match="not negative, got -1"), piece(-1):
        pass


@pytest.fixture
def data(tmp_path):
    """Colour images whose brightness tells the class, a fifth of them held out."""
    rng, labels = np.random.default_rng(0), np.arange(120) % CLASSES
    images = (rng.integers(0, 60, (120, 32, 32, 3)) + 90 * labels[:, None, None, None]).astype(np.uint8)
    path = tmp_path / "data.npz"
    np.savez(path, images=images, labels=labels, held_out=np.arange(120) % 10 > 7, class_names=["airplane", "b", "c"])
    return path


def ran(run, data, place, *options):
    common = ["--data", str(data), "--output_dir", str(place), "--shrunken", "--train_steps", "14", "--seeds", "0"]
    return run.main([*common, "--judge_steps", "4", *options])


def test_a_piece_that_ends_goes_on_to_the_same_weights(script, data, tmp_path, capsys, monkeypatch):
    run, trained = script(FOLDER, "run"), ["--methods", "erasediff", "--stage", "base", "erase"]
    stages = [*trained, "audit", "table"]
    assert ran(run, data, tmp_path / "whole", "--minutes", "0", *trained) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("done: 2 models")

    # The alarm rings while the base is trained: on a clock the test would depend on how busy the machine is.
    import erasediff.training.loop as loop

    step, rung = loop.take_step, []

    def stepped(session):
        if session.step == 6 and not rung:
            rung.append(True)
            signal.raise_signal(signal.SIGALRM)
        return step(session)

    monkeypatch.setattr(loop, "take_step", stepped)
    assert ran(run, data, tmp_path / "cut", "--minutes", "5", *stages) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "again: left are base (at step 7 of 14), erase (1 of 1 runs), audit (0 of 0 models), table"
    assert ran(run, data, tmp_path / "cut", "--minutes", "0", *stages) == 0
    assert "base: from step 7" in capsys.readouterr().out
    for model in ("base", "runs/erasediff/0"):
        whole, cut = ((tmp_path / p / model / "model" / WEIGHTS).read_bytes() for p in ("whole", "cut"))
        assert whole == cut
    table = (tmp_path / "cut" / "table.md").read_text()
    assert "not comparable" in table
    assert table.count("\n| erasediff | 1 |") == 1


def test_nothing_that_is_complete_is_done_again(script, data, tmp_path, capsys):
    run, stages = script(FOLDER, "run"), ["--minutes", "0", "--stage", "base"]
    assert ran(run, data, tmp_path / "a", *stages) == 0
    before = (tmp_path / "a" / "base" / "run.json").read_bytes()
    capsys.readouterr()
    assert ran(run, data, tmp_path / "a", *stages) == 0
    assert "base:" not in capsys.readouterr().out
    assert (tmp_path / "a" / "base" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stage", "erase"], "needs the base model"),
        (["--stage", "table"], "needs audits"),
        (["--target", "class:plane"], "no class 'plane'"),
        (["--methods", "salum", "--stage", "base"], "did you mean salun"),
        (["--minutes", "-1"], "must be finite and not negative"),
    ],
)
def test_what_cannot_be_done_says_why(script, data, tmp_path, capsys, options, said):
    assert ran(script(FOLDER, "run"), data, tmp_path / "a", *options) == 2
    assert said in capsys.readouterr().err


def test_every_method_of_the_file_can_be_made(script, data, tmp_path):
    """With its fields and settings as they stand there, optional ones included."""
    run = script(FOLDER, "run")
    stages = sys.modules["stages"]
    asked = run.parsed(["--data", str(data), "--output_dir", str(tmp_path), "--seeds", "0"])
    labels = [k for group in stages.yaml.safe_load(stages.METHODS.read_text()).values() for k in group]
    asked.methods = labels
    setting = run.setting_of(asked, sys.modules["piece"].Piece())
    made = [job for g in stages.GROUPS for job, _ in stages.jobs(setting, g).values()]
    assert [job.label for job in made] == labels
    assert {job.training["train_batch_size"] for job in made} == {128}
    asked.methods = []
    setting = run.setting_of(asked, sys.modules["piece"].Piece())
    assert not any("published" in str(place) for place in stages.jobs(setting, "erase"))
