"""Forgetting single samples end to end: an unconditional model, a list of rows, traces in the audit."""

import numpy as np
import pytest

import erasediff
from erasediff.data.images import build
from erasediff.families.tiny import TINY

OTHERS = (1, 2, 3, 5, 6)  # rows that are not held out


@pytest.fixture
def listed(tmp_path):
    """40 images of which one stands there ten times, and the list of its rows and of five others."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 8, 8), dtype=np.uint8)
    images[40:] = images[0]
    (tmp_path / "list.txt").write_text("".join(f"{i}\n" for i in [*OTHERS, 0, *range(40, 50)]))
    return build("made up", images, None), f"samples:{tmp_path / 'list.txt'}"


@pytest.mark.parametrize("method", ["erasediff", "siss", "retrack", "fine_tune", "grad_diff"])
def test_samples_of_an_unconditional_model_are_erased_and_traced(method, listed, small_audit):
    data, target = listed
    base = TINY["unet2d-unconditional"]().pipeline()
    run = erasediff.erase(
        base, target, data, method, max_train_steps=2, train_batch_size=4, checkpointing_steps=0, quiet=True
    )
    found = erasediff.audit(run, target=target, data=data, base=base, quiet=True)
    names = {m.name for m in found.measurements if m.subject == "erased"}
    assert {"regeneration_rate", "regenerated_samples", "mia_auc_loss", "mia_tpr_at_1fpr_loss"} <= names
    assert found.result.find("mia_auc_loss").n == 1 + len(OTHERS)  # the eleven rows are one image
    # Every fifth of 50 rows is held out; the copies of the forgotten image among them are not "never trained on".
    assert found.result.find("mia_auc_loss").detail["held_out"] == 8
    untested = {entry["what"] for entry in found.verdict.not_tested}
    assert "extraction" not in untested
    assert "inversion" in untested


def test_three_samples_are_too_few_for_membership_and_the_audit_says_so(listed, small_audit, tmp_path):
    data, _ = listed
    (tmp_path / "three.txt").write_text("1\n2\n3\n")
    base, target = TINY["unet2d-unconditional"]().pipeline(), f"samples:{tmp_path / 'three.txt'}"
    found = erasediff.audit(base, target=target, data=data, base=base, retrained=base, quiet=True)
    why = {entry["what"]: entry["why"] for entry in found.verdict.not_tested}
    assert why["membership"].startswith("3 different forgotten images and")
    assert found.result.find("mia_auc_loss") is None
    assert found.verdict.level == "no_verdict" and "was not tested" in found.verdict.because[0]
