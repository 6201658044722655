"""``demo``: the whole story on the handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from erasediff.api.audit import Audit, audit
from erasediff.api.beside import side_by_side
from erasediff.api.directory import refuse_occupied
from erasediff.api.erase import erase
from erasediff.api.train import train
from erasediff.data.targets import Class
from erasediff.methods.erasediff import EraseDiff
from erasediff.methods.fine_tune import FineTune

DATA = "digits"
TARGET = Class(7)
PARTS = ("base", "retrained", "control", "erased", "audit")


def demo(
    output_dir: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Audit:
    """Train a base model, erase the 7, and audit the result against a control and the retrained oracle.

    Writes base, retrained, control, erased and audit below ``output_dir``. Raises BadInput if they are there.
    """
    place = Path(output_dir)
    refuse_occupied(place, PARTS, overwrite=overwrite)
    begun = time.perf_counter()

    def told(number: int, text: str) -> None:
        say(f"[{time.perf_counter() - begun:4.0f} s] {number}/5 {text}")

    common = {"seed": seed, "overwrite": overwrite}
    shown, beside = {**common, "quiet": quiet}, {**common, "quiet": True}  # one bar at a time
    told(1, "training a small diffusion model on 1,797 handwritten digits (a fifth of them held out), and")
    told(2, "beside it the same model without any 7: the retrained oracle, what perfect forgetting looks like")
    side_by_side(
        partial(train, DATA, output_dir=place / "base", **TRAINING, **shown),  # type: ignore[arg-type]
        partial(train, DATA, output_dir=place / "retrained", exclude=[TARGET], **TRAINING, **beside),  # type: ignore[arg-type]
    )
    told(3, "fine-tuning the base model on the other digits only: the control, and")
    told(4, "beside it erasing the 7 from the base model with EraseDiff")
    base = place / "base"
    side_by_side(
        partial(erase, base, TARGET, DATA, EraseDiff(), output_dir=place / "erased", **ERASING, **shown),  # type: ignore[arg-type]
        partial(erase, base, TARGET, DATA, FineTune(), output_dir=place / "control", **ERASING, **beside),  # type: ignore[arg-type]
    )
    told(5, "auditing all four models from the same seeds")
    done = audit(
        place / "erased",
        target=TARGET,
        data=DATA,
        base=base,
        control=place / "control",
        retrained=place / "retrained",
        seed=seed,
        output_dir=place / "audit",
        overwrite=overwrite,
        quiet=quiet,
    )
    told(5, "done")
    return done


TRAINING = {"max_train_steps": 700, "train_batch_size": 64, "checkpointing_steps": 0}
ERASING = {"max_train_steps": 80, "train_batch_size": 64, "checkpointing_steps": 0}
