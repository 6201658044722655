"""What a model must answer, whatever its family: the words every other floor uses.

Shapes: ``B`` samples in a batch, ``C`` channels, ``H`` x ``W`` pixels (or latent cells).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from erasediff.errors import BadInput, listing

if TYPE_CHECKING:
    from erasediff.families.prompts import PromptTable

Condition = Tensor | None


@dataclass(frozen=True)
class Noisy:
    """A noised batch: ``x_t = signal * x_0 + sigma * noise``, with the coefficients of each sample.

    ``x_0``, ``noise``, ``x_t``: [B, C, H, W]; ``t``: [B] integers, or a flow sampler's floating timesteps;
    ``signal``, ``sigma``: [B, 1, 1, 1] in [0, 1], where ``signal^2 + sigma^2 = 1`` or,
    in flow matching, ``signal + sigma = 1``.
    """

    x_0: Tensor
    noise: Tensor
    t: Tensor
    x_t: Tensor
    signal: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class ClassConditions:
    """Conditions of a model asked by class label; ``num_classes`` is 0 for an unconditional model.

    ``null_label`` is the label that means "no condition" (``None``: the model has none), ``excluded`` the classes
    that :meth:`other` never draws: those to be forgotten. ``anchor``: the label of what is to come in their place,
    which need not be a class (a model asked in words has one where it was given). ``anchors``: (label, its own anchor)
    where several targets have different ones. ``in_words``: the classes are prompts of a model asked in words.
    """

    num_classes: int
    null_label: int | None
    excluded: tuple[int, ...] = ()
    anchor: int | None = None
    anchors: tuple[tuple[int, int], ...] = ()
    in_words: bool = field(default=False, repr=False)  # says how to train: audits' keys do without

    def own(self, labels: Tensor | None) -> Condition:
        """Each sample's own condition [B]; ``None`` for an unconditional model."""
        return labels if self.num_classes else None

    def null(self, labels: Tensor | None) -> Condition:
        """The null condition for as many samples as ``labels`` has [B]; ``None`` for an unconditional model."""
        if not self.num_classes:
            return None
        if self.null_label is None:
            raise BadInput("this model has no null condition: it was not trained for classifier-free guidance")
        return torch.full_like(_given(labels), self.null_label)

    def anchored(self, labels: Tensor | None) -> Condition:
        """The anchor's condition for as many samples as ``labels`` has [B]. Raises BadInput where there is none."""
        if self.anchor is None:
            raise BadInput("no anchor is known: what is to come in the target's place; give --anchor TEXT")
        own = _given(labels)
        found = torch.full_like(own, self.anchor)
        for label, anchor in self.anchors:
            found = torch.where(own == label, anchor, found)
        return found

    def other(self, labels: Tensor | None, uniform: Tensor, weights: Tensor | None = None) -> Condition:
        """A class drawn for each sample, never its own nor an excluded one. ``uniform``: [B] draws from U[0, 1).

        ``weights`` [num_classes, num_classes]: how likely each class (column) is for each own class (row), up to
        scale; by default all are alike. A pure function of its arguments, so that the same step draws the same classes
        on one process or eight.
        """
        if not self.num_classes:
            raise BadInput("an unconditional model has no other class to be relabelled to")
        own = _given(labels)
        allowed = torch.ones(own.shape[0], self.num_classes, device=own.device, dtype=torch.float64)
        allowed[:, list(self.excluded)] = 0
        allowed.scatter_(1, own[:, None], 0)
        if weights is not None:
            allowed *= weights.to(allowed)[own]
        steps = allowed.cumsum(1)
        total = steps[:, -1:]
        # Each class has its share of [0, 1); below the total, so that a u that rounded up to 1 stays inside.
        height = (uniform[:, None].to(steps) * total).minimum(total.nextafter(torch.zeros_like(total)))
        return (steps <= height).sum(1)

    def where(self, mask: Tensor, chosen: Condition, otherwise: Condition) -> Condition:
        """``chosen`` where ``mask`` [B] holds, else ``otherwise``."""
        if chosen is None or otherwise is None:
            return None
        return torch.where(mask, chosen, otherwise)

    def classes(self) -> tuple[int, ...]:
        """The classes that remain after the excluded ones."""
        return tuple(c for c in range(self.num_classes) if c not in self.excluded)


def _given(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise BadInput("this model is asked by class label, and the data has no labels")
    return labels


class NoisingProtocol(Protocol):
    """One face for diffusers' schedulers (see ``noising.py``)."""

    prediction_type: str

    @property
    def num_train_timesteps(self) -> int: ...
    @property
    def table(self) -> Tensor: ...
    def noised(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Noisy: ...
    def timesteps(self, t: Tensor) -> Tensor: ...
    def target(self, noisy: Noisy, noise: Tensor | None = None) -> Tensor: ...
    def implied_noise(self, prediction: Tensor, noisy: Noisy) -> Tensor: ...
    def implied_x_0(self, prediction: Tensor, noisy: Noisy) -> Tensor: ...
    def noise_weight(self, noisy: Noisy) -> Tensor: ...


class Model(Protocol):
    """A trained model and how it is asked. Images are [B, C, H, W] in [-1, 1]."""

    family: str
    denoiser: nn.Module
    noising: NoisingProtocol
    conditions: ClassConditions
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> ``x_0``, what the denoiser is trained on."""

    def decode(self, x_0: Tensor) -> Tensor:
        """The inverse of :meth:`encode`, clamped to [-1, 1]."""

    def ask(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The prediction [B, C, H, W] of ``denoiser`` (this model's, or a frozen copy of it) at the steps ``t`` [B]."""

    def class_tables(self, denoiser: nn.Module) -> list[nn.Embedding]:
        """Where ``denoiser`` looks classes up: tables [labels, D], row c for class c; none if it is unconditional."""

    def sampler(self, num_inference_steps: int) -> Any:
        """A fast scheduler with ``timesteps`` and ``step``, made from the model's own and set to this many steps."""

    def pipeline(self) -> Any:
        """A diffusers pipeline over the same weights."""

    def resting(self) -> Any:
        """The same with every part on the device where it is: enough to be written, and nothing is moved."""

    def save(self, directory: Path) -> None:
        """Write a plain diffusers pipeline directory (safetensors)."""


@runtime_checkable
class InLatents(Protocol):
    """A model that works in an autoencoder's latents; see :class:`erasediff.families.latents.Latents`."""

    @property
    def latents(self) -> Any:
        """``moments(images)`` [B, 2, c, h, w], ``shape(image_shape)``, ``rest()``."""


def encoded_shape(model: Model) -> tuple[int, ...]:
    """[C, H, W] of what the denoiser is trained on; no autoencoder is asked."""
    if isinstance(model, InLatents):
        return tuple(model.latents.shape(model.image_shape))
    return tuple(model.encode(torch.zeros(1, *model.image_shape, device=_device(model))).shape[1:])


def _device(model: Model) -> torch.device:
    return next(model.denoiser.parameters()).device


@runtime_checkable
class AskedInWords(Protocol):
    """A model whose classes are prompts; see :class:`erasediff.families.prompts.PromptTable`."""

    def with_prompts(self, prompts: Sequence[str], *, anchor: str | None = None) -> Model:
        """A model over the same weights whose classes are ``prompts``, with the label of ``anchor`` beside them."""


class TextMap(NamedTuple):
    """A linear map that acts on text embeddings themselves, whatever is asked of the model besides.

    ``parameter``: the name of its weight [O, D] in the denoiser; ``embedding``: the name, in the
    :class:`~erasediff.families.prompts.PromptTable`, of the embeddings [P, L, D] or [P, D] that it reads, as
    :meth:`ReadsText.text_rows` gives them.
    """

    parameter: str
    embedding: str


@runtime_checkable
class ReadsText(AskedInWords, Protocol):
    """A model asked in words whose maps on text embeddings are known: their weights can be edited in closed form."""

    table: PromptTable

    def text_maps(self, denoiser: nn.Module) -> list[TextMap]:
        """The linear maps through which text reaches ``denoiser``.

        They are all there are, but for what SDXL reads of the pooled text, which enters beside the image's size.
        """

    def text_rows(self, denoiser: nn.Module, embedding: str) -> Tensor:
        """What the maps of ``embedding`` take of every prompt, [P, L, D] or [P, D], where ``denoiser`` is.

        These are the table's embeddings, unless ``denoiser`` normalises them first.
        """


class TextReader(Protocol):
    """The frozen text encoder of a model asked in words, as far as an attack may touch it. Nothing of it is changed.

    ``V`` tokens in the encoder's table, ``D`` wide. Start, end and padding are the reader's own affair: tokens and
    vectors are always those between them, and a prompt has at most ``room`` of them.
    """

    @property
    def vectors(self) -> Tensor:
        """The table of token vectors [V, D], without a gradient."""

    @property
    def words(self) -> Tensor:
        """The tokens [W] that a search may use: each, spelled alone, is read as itself; none is a special one."""

    @property
    def room(self) -> int:
        """How many tokens a prompt may have."""

    def tokens(self, prompt: str) -> tuple[int, ...]:
        """The tokens of ``prompt``, however many."""

    def spelled(self, tokens: Sequence[int]) -> str | None:
        """A text whose tokens are exactly these; ``None`` where there is none, or a special token among them."""

    def read(self, vectors: Tensor) -> dict[str, Tensor]:
        """What the encoder makes of ``vectors`` [B, n, D] in the place of n tokens: rows by name, differentiable.

        Raises BadInput for more than ``room`` of them.
        """

    def with_rows(self, rows: Mapping[str, Tensor]) -> Model:
        """A model over the same weights whose class k is row k of ``rows`` [K, ...]; gradients flow back to them."""


@runtime_checkable
class Searchable(Protocol):
    """A model asked in words by one text encoder, which an attack may search."""

    def reader(self) -> TextReader: ...


@runtime_checkable
class AnySize(Protocol):
    """A model that is bound to no size of image: it takes that of the data."""

    def with_size(self, height: int, width: int) -> Model:
        """The same model for images of this size. Raises BadInput for one that it cannot draw."""


def check_images(model: Model, shape: tuple[int, ...]) -> None:
    """Raise BadInput unless images of ``shape`` [C, H, W] are what ``model`` takes."""
    if tuple(shape) != tuple(model.image_shape):
        raise BadInput(
            f"images are {_size(shape)}, but this model takes {_size(model.image_shape)} (channels x height x width)"
        )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(listing([n]) for n in shape)
