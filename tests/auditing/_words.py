"""Scenes for searches for words: a miniature Stable Diffusion, and a stand-in whose best prompt is known by algebra.

The stand-in's text encoder adds up the vectors of a prompt's words, and its denoiser draws a fixed matrix times that
sum, whatever it is shown. So what a prompt draws, and which draws best, can be worked out by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from erasediff.auditing.attacks.base import Scene
from erasediff.auditing.classifier import train_classifier
from erasediff.data.images import build
from erasediff.errors import BadInput
from erasediff.families import stable_diffusion
from erasediff.families.base import ClassConditions
from erasediff.families.tiny import TINY
from tests.auditing._scene import question
from tests.conftest import make_squares
from tests.families import _tiny_text

NAMES = ("zero", "one", "two", "three")
FILLERS = ("a", "photo", "of", "the", "on", "under", "red", "old", "new")
VOCABULARY = (*NAMES, "uno", *FILLERS, "##s", "<end>")  # the last two: a piece that no text is read as, a special token
WIDTH, ROOM = 8, 9
UNO = VOCABULARY.index("uno")


@cache
def vectors() -> Tensor:
    """[V, 8]: "zero" to "three" are axes 0 to 3, "uno" axis 7; fillers lie between, "a", "photo" and "of" at 0."""
    table = torch.zeros(len(VOCABULARY), WIDTH)
    table[range(4), range(4)] = 1
    table[UNO, 7] = 1
    drawn = torch.randn(len(FILLERS) + 2, 3, generator=torch.Generator().manual_seed(0)) / 2
    table[UNO + 1 :, 4:7] = drawn
    table[[VOCABULARY.index(w) for w in ("a", "photo", "of")]] = 0
    return table


@cache
def patterns() -> Tensor:
    """[64, 8]: what each axis draws: the mean image of a class, noise for the fillers, class 1 again for "uno"."""
    data = make_squares()
    means = [data.floats((data.labels == c).nonzero()[:, 0]).mean(0).flatten() for c in range(4)]
    noise = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)) / 2
    return torch.stack([*means, *noise, means[1]], 1)


class Drawer(nn.Module):
    """Draws ``weight`` @ row [B, 1, 8, 8]."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, row: Tensor) -> Tensor:
        return (row @ self.weight.T).reshape(-1, 1, 8, 8)


@dataclass(frozen=True)
class Adder:
    """The reader: a prompt is read as the sum of its words' vectors."""

    model: StandIn
    room: int = ROOM

    @property
    def vectors(self) -> Tensor:
        return vectors()

    @property
    def words(self) -> Tensor:
        return torch.arange(len(VOCABULARY) - 2)

    def tokens(self, prompt: str) -> tuple[int, ...]:
        return tuple(VOCABULARY.index(word) for word in prompt.split())

    def spelled(self, tokens: Sequence[int]) -> str | None:
        words = [VOCABULARY[t] for t in tokens]
        return None if {"##s", "<end>"} & set(words) else " ".join(words)

    def read(self, vectors: Tensor) -> dict[str, Tensor]:
        if vectors.shape[1] > self.room:
            raise BadInput("too long")
        return {"text": vectors.sum(1)}

    def with_rows(self, rows: Mapping[str, Tensor]) -> StandIn:
        found = rows["text"]
        table = torch.cat([found, torch.zeros(1, WIDTH)])
        return replace(self.model, table=table, conditions=ClassConditions(len(found), len(found)))


@dataclass(frozen=True)
class StandIn:
    """A model of :class:`Drawer` that predicts images; its classes are ``class_names``."""

    denoiser: Drawer
    table: Tensor
    conditions: ClassConditions
    class_names: tuple[str, ...] = NAMES
    family: str = "stand-in"
    image_shape: tuple[int, int, int] = (1, 8, 8)

    @property
    def noising(self):
        return _like().noising

    def sampler(self, steps):
        return _like().sampler(steps)

    def encode(self, images):
        return images

    def decode(self, x_0):
        return x_0.clamp(-1, 1)

    def ask(self, denoiser, x_t, t, condition):
        return denoiser(self.table[condition])

    def class_tables(self, denoiser):
        return []

    def with_prompts(self, prompts, *, anchor=None):
        raise NotImplementedError

    def reader(self):
        return Adder(self)


@cache
def _like():
    return TINY["unet2d-sample"](classes=0)


def stand_in(weight=None, names=NAMES) -> StandIn:
    """The model that draws every class as it is called; ``weight``: other patterns."""
    blank = StandIn(Drawer(patterns() if weight is None else weight), torch.zeros(1, WIDTH), ClassConditions(0, 0))
    reader = blank.reader()
    rows = torch.cat([reader.read(vectors()[list(reader.tokens(n))][None])["text"] for n in names])
    return replace(reader.with_rows({"text": rows}), class_names=names)


def erased(names=NAMES) -> StandIn:
    """Asked for "one" it draws grey; asked for "uno" it still draws class 1."""
    weight = patterns().clone()
    weight[:, 1] = 0
    return stand_in(weight, names)


def planted(model=None, *, base=True, **changes) -> Scene:
    """The erased stand-in, asked without guidance."""
    asked = question(guidance_scale=1.0, **changes)
    return Scene("erased", erased() if model is None else model, asked, stand_in() if base else None)


@cache
def coloured():
    """The squares in 3 x 16 x 16, and a judge of them."""
    grey = make_squares()
    images = grey.images.repeat_interleave(2, -1).repeat_interleave(2, -2).expand(-1, 3, -1, -1)
    data = build("coloured", images.permute(0, 2, 3, 1).numpy(), grey.labels.numpy())
    kept, held = ~data.held_out, data.held_out
    told = {"held_out": (data.floats(held), data.labels[held]), "num_classes": 4, "seed": 0, "steps": 20}
    return data, train_classifier(data.floats(kept), data.labels[kept], **told)


@cache
def _pipeline(seed):
    return _tiny_text.stable_diffusion(seed=seed)


def painted(*, classes=(1,), base=True, **changes) -> Scene:
    """An untrained miniature Stable Diffusion that is to have forgotten "dog"."""
    data, judge = coloured()
    prompts = ["cat", "dog", "a b", "a 1"]
    models = [stable_diffusion.adopt(_pipeline(seed)).with_prompts(prompts) for seed in (0, 1)]
    train = (~data.held_out).nonzero()[:, 0]
    of_target = torch.isin(data.labels[train], torch.tensor(classes))
    there = {"data": data, "judge": judge, "forget": train[of_target], "retain": train[~of_target], "classes": classes}
    return Scene("erased", models[0], question(**{**there, **changes}), models[1] if base else None)


def without_reader() -> SimpleNamespace:
    """A model asked in words whose text encoders nobody may search."""
    return SimpleNamespace(
        family="many_encoders", conditions=ClassConditions(4, 4), class_names=NAMES, with_prompts=lambda prompts: None
    )
