"""What `erase` chooses for a family: how many steps, how few forget samples, what they cost, who cannot."""

import pytest

import erasediff
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY

FEW = {"max_train_steps": 3, "checkpointing_steps": 0, "quiet": True}


@pytest.mark.parametrize(
    ("family", "method", "fields", "chosen"),
    [
        ("unet2d", "erasediff", {"train_batch_size": 8}, 2),
        ("unet2d", "munba", {"train_batch_size": 2}, 1),
        ("unet2d", "erasediff", {"train_batch_size": 8, "forget_batch_size": 8}, 8),
        ("unet2d", "salun", {"train_batch_size": 8}, None),
        ("dit", "erasediff", {"train_batch_size": 8}, None),
    ],
)
def test_a_quarter_for_classes_of_unet2d_unless_told(squares, family, method, fields, chosen):
    run = erasediff.erase(TINY[family]().pipeline(), "class:1", squares, method, dry_run=True, **FEW, **fields)
    assert run.record["training"]["forget_batch_size"] == chosen


@pytest.mark.parametrize(
    ("family", "target", "fields", "steps"),
    [
        ("unet2d", ["class:1"], {}, 240),
        ("unet2d", ["class:1", "class:2"], {}, 480),
        ("unet2d", ["class:1", "class:2"], {"max_train_steps": 3}, 3),
        ("dit", ["class:1", "class:2"], {}, 240),
    ],
)
def test_as_many_steps_for_each_class_unless_told(squares, family, target, fields, steps):
    settings = {"train_batch_size": 8, "dry_run": True, "quiet": True, **fields}
    run = erasediff.erase(TINY[family]().pipeline(), target, squares, **settings)
    assert run.record["training"]["max_train_steps"] == run.record["plan"]["steps"] == steps


def test_samples_keep_a_whole_batch(squares, tmp_path):
    (tmp_path / "list.txt").write_text("0\n1\n2\n")
    base = TINY["unet2d-unconditional"]().pipeline()
    run = erasediff.erase(base, f"samples:{tmp_path / 'list.txt'}", squares, dry_run=True, **FEW)
    assert run.record["training"]["forget_batch_size"] is None


def test_what_is_planned_is_what_it_costs(squares):
    settings = {"train_batch_size": 8, "gradient_accumulation_steps": 2, **FEW}
    method = erasediff.EraseDiff(others="uniform", retain_focus=0.0)  # nothing to prepare
    for few, each in ((None, 9.0), (2, 4 + 5 / 4), (16, 4 + 5 * 2)):
        run = erasediff.erase(
            TINY["unet2d"]().pipeline(), "class:1", squares, method, **{**settings, "forget_batch_size": few}
        )
        assert run.record["plan"]["forward_equivalents_per_step"] == each
        assert run.record["cost"]["forward_equivalents"] == 3 * each == run.record["plan"]["forward_equivalents"]


def test_who_mixes_both_batches_needs_as_many(squares):
    base = TINY["unet2d"]().pipeline()
    with pytest.raises(BadInput, match=r"forget_batch_size 4: method siss mixes .*; leave it out, or give 8"):
        erasediff.erase(base, "class:1", squares, "siss", train_batch_size=8, forget_batch_size=4, **FEW)
    with pytest.raises(BadInput, match="forget_batch_size must be at least 1, got 0"):
        erasediff.erase(base, "class:1", squares, forget_batch_size=0, **FEW)
