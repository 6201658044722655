"""``demo``: the whole story on the handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from erasediff.api.audit import Audit, audit
from erasediff.api.erase import erase
from erasediff.api.train import train
from erasediff.data.targets import Class
from erasediff.errors import BadInput
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
    there = [name for name in PARTS if (place / name).exists()]
    if there and not overwrite:
        raise BadInput(f"output_dir {place} already holds {', '.join(there)}; give another one, or --overwrite")
    begun = time.perf_counter()

    def told(number: int, text: str) -> None:
        say(f"[{time.perf_counter() - begun:4.0f} s] {number}/5 {text}")

    common = {"seed": seed, "overwrite": overwrite, "quiet": quiet}
    told(1, "training a small diffusion model on 1,797 handwritten digits (a fifth of them held out)")
    train(DATA, output_dir=place / "base", **TRAINING, **common)  # type: ignore[arg-type]
    told(2, "training the same model without any 7: the retrained oracle, what perfect forgetting looks like")
    train(DATA, output_dir=place / "retrained", exclude=[TARGET], **TRAINING, **common)  # type: ignore[arg-type]
    told(3, "fine-tuning the base model on the other digits only: the control")
    base = place / "base"
    erase(base, TARGET, DATA, FineTune(), output_dir=place / "control", **ERASING, **common)  # type: ignore[arg-type]
    told(4, "erasing the 7 from the base model with EraseDiff")
    erase(base, TARGET, DATA, EraseDiff(), output_dir=place / "erased", **ERASING, **common)  # type: ignore[arg-type]
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
ERASING = {"max_train_steps": 120, "train_batch_size": 64, "checkpointing_steps": 0, "learning_rate": 5e-4}
