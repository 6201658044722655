"""A scene for attacks: a miniature model, four classes of squares, and a judge of a few steps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from erasediff.auditing.attacks.base import Scene
from erasediff.auditing.classifier import Judge, train_classifier
from erasediff.auditing.question import Question
from erasediff.auditing.suite import Suite
from erasediff.families.tiny import TINY
from tests.conftest import make_squares

MANY_HELD_OUT = torch.arange(80) // 4 % 2 == 1
"""Ten held-out squares of each class: members can be told from so many; of the usual four they cannot."""
SUITE = Suite(name="tiny", forget=12, per_class=4, unconditional=12, num_inference_steps=2, resamples=5)


@cache
def judge() -> Judge:
    data = make_squares()
    kept, held = ~data.held_out, data.held_out
    return train_classifier(
        data.floats(kept),
        data.labels[kept],
        num_classes=4,
        held_out=(data.floats(held), data.labels[held]),
        seed=0,
        steps=40,
    )


def question(*, classes=(1,), judged=True, suite=SUITE, seed=0, held_out=None, **changes) -> Question:
    """Class 1 of the squares is to be forgotten (``classes=()``: the first six training samples)."""
    data = make_squares() if held_out is None else replace(make_squares(), held_out=held_out)
    train = (~data.held_out).nonzero()[:, 0]
    of_target = torch.isin(data.labels[train], torch.tensor(classes, dtype=torch.long))
    forget, retain = (train[of_target], train[~of_target]) if classes else (train[:6], train[6:])
    given = {
        "target": "class:1" if classes else "samples:six.txt",
        "goal": "data",
        "data": data,
        "forget": forget,
        "retain": retain,
        "classes": classes,
        "judge": judge() if judged else None,
        "features": "classifier" if judged else "pixels",
        "suite": suite,
        "guidance_scale": 1.5,
        "seed": seed,
    }
    return Question(**{**given, **changes})


def scene(family="unet2d", *, subject="erased", base=False, model_seed=0, **changes) -> Scene:
    """An untrained miniature asked that question; ``base``: another one stands for the model before."""
    if family == "unet2d-unconditional":
        changes = {"classes": (), "judged": False, **changes}
    before = TINY[family](seed=model_seed + 1) if base else None
    return Scene(subject, TINY[family](seed=model_seed), question(**changes), before)
