"""One class after another: what was forgotten first does not come back as retain data."""

import erasediff
from erasediff.families.tiny import TINY

FEW = {"max_train_steps": 2, "train_batch_size": 4, "checkpointing_steps": 0, "quiet": True}


def test_a_second_erasure_keeps_the_first_target_out(squares, small_audit, tmp_path, monkeypatch):
    erasediff.erase(TINY["unet2d"]().pipeline(), "class:1", squares, output_dir=tmp_path / "first", **FEW)
    seen = []
    from erasediff.api import erase

    launch = erase.launch
    monkeypatch.setattr(erase, "launch", lambda job, *rest, **more: (seen.append(job), launch(job, *rest, **more))[1])
    run = erasediff.erase(tmp_path / "first", "class:2", squares, output_dir=tmp_path / "second", **FEW)
    assert set(squares.labels[seen[0].retain].tolist()) == {0, 3}
    assert set(squares.labels[seen[0].forget].tolist()) == {2}
    assert seen[0].model.conditions.excluded == (1, 2)  # relabelling never leads back to the first
    assert (run.record["target"], run.record["gone"]) == (["class:2"], ["class:1"])

    found = erasediff.audit(tmp_path / "second", data=squares, quiet=True)
    assert found.result.target == "class:2, class:1"
    alone = erasediff.audit(tmp_path / "second", target="class:2", data=squares, quiet=True)
    kept = alone.result.find("retain_accuracy")
    assert kept.n == 6 * 2  # six samples of each of the two classes that were never forgotten

    third = erasediff.erase(tmp_path / "second", "class:0", squares, dry_run=True, **FEW)
    assert third.record["gone"] == ["class:2", "class:1"]
