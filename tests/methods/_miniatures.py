"""What the contract runs on: every miniature with data that it takes, and every method in small."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tests.families import _tiny_flux_2, _tiny_text
from tests.families._tiny_qwen_image import qwen_image
from tests.families._tiny_z_image import z_image

from erasediff.api.needs import refusal
from erasediff.data.images import build
from erasediff.families import adopt
from erasediff.families.tiny import TINY
from erasediff.methods import METHODS
from erasediff.methods.base import WeightEdit

CAPTIONS = ["a cat", "a red hat", "a chair", "two dogs"]
TEXT = {
    "stable_diffusion": lambda: _tiny_text.stable_diffusion(),
    "stable_diffusion-v": lambda: _tiny_text.stable_diffusion("v_prediction"),
    "stable_diffusion_xl": lambda: _tiny_text.stable_diffusion_xl(),
    "stable_diffusion_3": lambda: _tiny_text.stable_diffusion_3(),
    "flux": lambda: _tiny_text.flux(),
    "flux_2": lambda: _tiny_flux_2.flux_2(),
    "pixart": lambda: _tiny_text.pixart(),
    "sana": lambda: _tiny_text.sana(),
    "qwen_image": lambda: qwen_image(),
    "z_image": lambda: z_image(),
}

# What a method prepares or draws, in small.
QUICK = {
    "selective_amnesia": {"fisher_samples": 8, "fisher_timesteps": 1, "replay_samples": 8, "replay_steps": 2},
    "esd": {"num_inference_steps": 2},
    "concept_ablation": {"anchor_samples": 6, "num_inference_steps": 2},
}
# Settings under which a method is another one.
VARIANTS = {
    "erasediff, anchor": ("erasediff", {"forget_target": "anchor"}),
    "erasediff, unconditional": ("erasediff", {"forget_target": "unconditional"}),
    "esd, data": ("esd", {"x_t": "data", "retain_weight": 1.0}),
    "concept_ablation, data": ("concept_ablation", {"images": "forget", "held": "data", "retain": "distill"}),
    "uce, unconditional": ("uce", {"towards": "unconditional"}),
}


def quick(name):
    kind, fields = VARIANTS.get(name, (name, {}))
    return METHODS[kind](**{**QUICK.get(kind, {}), **fields})


def is_edit(name):
    return isinstance(quick(name), WeightEdit)


@cache
def _pipeline(family):
    return TEXT[family]()


@cache
def _asked(family, wanted):
    return adopt(_pipeline(family)).with_prompts(CAPTIONS, anchor=wanted)


def pipeline(family):
    return _pipeline(family) if family in TEXT else TINY[family]().pipeline()


def anchor(name, family):
    """What comes in the place of class 1, where the method asks for that, in the words of the family."""
    if not quick(name).needs.anchor:
        return None
    return "a cap" if family in TEXT else "class:2"


def model(name, family, *, own=True):
    """The miniature as ``erase`` hands it to the method: class 1 is to be forgotten. ``own``: with its own weights."""
    wanted = anchor(name, family)
    if family in TEXT:
        made = _asked(family, wanted)
        made = copy.deepcopy(made) if own else replace(made)
    else:
        made = TINY[family]()
        label = None if wanted is None or not made.conditions.num_classes else 2
        made.conditions = replace(made.conditions, anchor=label)
    made.conditions = replace(made.conditions, excluded=(1,))
    return made


def data(family, squares):
    """The squares; in colour, larger and with captions where the family wants that."""
    if family not in TEXT:
        return squares
    times = 4 if family == "sana" else 2
    images = np.kron(squares.images[:, 0].numpy(), np.ones((1, times, times), dtype=np.uint8))
    return build("captioned", np.stack([images] * 3, -1), squares.labels.numpy(), class_names=CAPTIONS)


def supported(name, family):
    return refusal(quick(name), model(name, family, own=False)) is None


def pairs(names, families, *, edits=False):
    """(method, family) wherever the method declares nothing that the family lacks."""
    return [(n, f) for n in names for f in families if is_edit(n) == edits and supported(n, f)]


def spread(some, home, everywhere=("erasediff",)):
    """These pairs as parameters: every method at home, and a few everywhere; `make test-all` takes the others too."""
    few = [(n, f) for n, f in some if f == home or n in everywhere]
    return [pytest.param(n, f, marks=() if (n, f) in few else pytest.mark.wide) for n, f in some]


def refused(names, families):
    return [(n, f) for n in names for f in families if not supported(n, f)]
