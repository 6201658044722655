"""What all families that are asked in words share: frozen parts beside a denoiser, and prompts as classes.

A family says what is different: which parts there are, how wide each must be, what its encoders say of a prompt, how it
is noised, asked and drawn from.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from erasediff.errors import BadInput
from erasediff.families.base import ClassConditions, Condition, NoisingProtocol, TextMap
from erasediff.families.latents import Latents
from erasediff.families.prompts import NULL, PromptTable
from erasediff.families.reading import named_class, read_index, read_scheduler
from erasediff.families.text_maps import CROSS_ATTENTION, maps_ending
from erasediff.families.words import check_length, check_pairs, copy_folders, frozen, quiet
from erasediff.files import staged_directory

# Folders that are neither trained nor asked here; a model that was read with them is saved with them.
BESIDE = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass(frozen=True)
class Part:
    """How a part of a pipeline is read: ``read(directory, name)``; whether a model can do without it."""

    read: Callable[[Path, str], Any]
    optional: bool = False


@dataclass(frozen=True)
class Width:
    """Two numbers of different parts that must be equal: what the denoiser takes, and what the others make of it."""

    what: str
    taken: int
    given: int


@dataclass
class Worded(ABC):
    """A denoiser with its frozen VAE, text encoders and tokenizers; see :class:`erasediff.families.base.Model`.

    The classes are the prompts of ``table``: label c is prompt c, and the last row, the empty prompt, is the null
    condition. As read, the model knows the empty prompt only and counts as unconditional; see :meth:`with_prompts`.

    ``parts``: the pipeline's other components by name, shared and never changed. ``options``: what its constructor
    takes besides components. ``beside`` and ``folders``: what a pipeline may carry that is not read here, as objects
    (adopted) or as folders with their entries in model_index.json.
    """

    denoiser: Any
    parts: dict[str, Any]
    scheduler: Any
    noising: NoisingProtocol
    table: PromptTable
    conditions: ClassConditions
    options: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)
    folders: dict[str, tuple[Path, Any]] = field(default_factory=dict)
    family: str = ""

    PIPELINE: ClassVar[Any]
    DENOISER: ClassVar[str]
    PARTS: ClassVar[Mapping[str, Part]]  # the denoiser and the frozen parts, in the order in which they are read
    ENCODERS: ClassVar[tuple[tuple[str, str], ...]]  # tokenizer and text encoder, pair by pair
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    TEXT_MAPS: ClassVar[Mapping[str, str]] = CROSS_ATTENTION

    @classmethod
    @abstractmethod
    def widths(cls, pipeline: Any) -> list[Width]:
        """What must agree between the parts of a pipeline of this family."""

    @classmethod
    @abstractmethod
    def noised_by(cls, pipeline: Any) -> NoisingProtocol:
        """How the pipeline's denoiser was trained to be noised."""

    def limits(self) -> dict[str, int]:
        """The longest prompt that is read, in tokens with start and end, by the name of the tokenizer."""
        own = {words: self.parts[words].model_max_length for words, encoder in self.ENCODERS if self.parts[encoder]}
        return {words: min(limit, self.longest().get(words, limit)) for words, limit in own.items()}

    def longest(self) -> dict[str, int]:
        """How many tokens a pipeline asks for where that is less than a tokenizer makes, by the tokenizer's name."""
        return {}

    @abstractmethod
    def embedded(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        """What the text encoders say of a prompt, by the name under which it is asked: tensors [1, ...]."""

    @abstractmethod
    def predicted(self, denoiser: Any, x_t: Tensor, t: Tensor, text: dict[str, Tensor]) -> Tensor:
        """The prediction [B, C, H, W] under ``text`` [B, ...] by name."""

    @abstractmethod
    def sampler(self, num_inference_steps: int) -> Any: ...

    @property
    def cells(self) -> tuple[int, int]:
        """Height and width of the latents that the denoiser was trained on."""
        size = self.denoiser.config.sample_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @classmethod
    def wrap(cls, pipeline: Any) -> Self:
        """Adapt a pipeline; its denoiser is trained in place, the other parts are shared but never changed."""
        cls.check_fit(pipeline)
        given = {name: getattr(pipeline, name) for name in cls.PARTS if name != cls.DENOISER}
        made = cls(
            denoiser=getattr(pipeline, cls.DENOISER),
            parts={n: frozen(part) if isinstance(part, nn.Module) else part for n, part in given.items()},
            scheduler=copy.deepcopy(pipeline.scheduler),
            noising=cls.noised_by(pipeline),
            table=PromptTable((), {}),
            conditions=ClassConditions(0, None),
            options={name: pipeline.config[name] for name in cls.OPTIONS},
            beside={name: getattr(pipeline, name) for name in BESIDE if getattr(pipeline, name, None) is not None},
        )
        return made.with_prompts(())

    @classmethod
    def check_fit(cls, pipeline: Any) -> None:
        """Raise BadInput unless the parts take what the others give."""
        for width in cls.widths(pipeline):
            if width.taken != width.given:
                raise BadInput(
                    f"the {cls.DENOISER} takes {width.what} {width.taken} wide, the other parts make it {width.given}: "
                    "they must agree; read are text-to-image models only (no inpainting, no image editing)"
                )
        pairs = [(getattr(pipeline, words), getattr(pipeline, encoder)) for words, encoder in cls.ENCODERS]
        check_pairs([(words, encoder) for words, encoder in pairs if encoder is not None])

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read a pipeline directory. Weights must be safetensors; code in the directory is never run."""
        index = read_index(directory)
        with quiet():
            scheduler = read_scheduler(directory, named_class(index, "scheduler"))
            parts = {
                name: None if part.optional and named_class(index, name) == "None" else part.read(directory, name)
                for name, part in cls.PARTS.items()
            }
        options = {name: index[name] for name in cls.OPTIONS if name in index}
        made = cls.wrap(cls.built(parts, scheduler, options, {}))
        made.folders = {name: (directory / name, index[name]) for name in BESIDE if named_class(index, name) != "None"}
        return made

    @classmethod
    def load_file(cls, file: Path, config: Path) -> Self:
        """Read a single safetensors file, built as the pipeline directory ``config`` says."""
        from erasediff.families import one_file

        made: Self = one_file.read(cls, file, config)
        return made

    @classmethod
    def adopt(cls, pipeline: Any) -> Self:
        """Adapt a loaded pipeline: a copy of its denoiser; the rest is shared where it is in float32."""
        for part in filter(lambda part: isinstance(part, nn.Module), (getattr(pipeline, name) for name in cls.PARTS)):
            if any(".base_layer." in name for name, _ in part.named_parameters()):
                raise BadInput("a LoRA is attached to the pipeline; call fuse_lora() and unload_lora_weights() first")
        made = cls.wrap(pipeline)
        made.denoiser = copy.deepcopy(made.denoiser).float().eval()
        return made

    @classmethod
    def built(cls, parts: Mapping[str, Any], scheduler: Any, options: Mapping[str, Any], beside: Any) -> Any:
        """The pipeline of these components; what it may carry besides is absent unless given."""
        taken = set(cls.PIPELINE._get_signature_keys(cls.PIPELINE)[0])
        absent = {name: None for name in BESIDE if name in taken}
        return cls.PIPELINE(**parts, scheduler=scheduler, **options, **{**absent, **beside})

    def with_prompts(self, prompts: Sequence[str], *, anchor: str | None = None) -> Self:
        """A model over the same weights whose classes are ``prompts``; repeated ones count once.

        ``anchor``: a prompt whose label the conditions know besides. Raises BadInput for a prompt that a tokenizer
        would cut.
        """
        pipeline, classes = self.pipeline(), [p for p in dict.fromkeys(prompts) if p != NULL]
        wanted = [*dict.fromkeys([*classes, *([anchor] if anchor else [])]), NULL]
        # One by one: what is said of a prompt does not depend on the others in the table, to the last bit.
        rows = [self._row(pipeline, prompt) for prompt in wanted]
        table = PromptTable(tuple(wanted), {name: torch.cat([row[name] for row in rows]) for name in rows[0]})
        place = None if anchor is None else table.index(anchor)
        conditions = ClassConditions(len(classes), table.index(NULL), anchor=place, in_words=True)
        return replace(self, table=table, conditions=conditions)

    @torch.no_grad()
    def _row(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        for name, limit in self.limits().items():
            words = self.parts[name]
            check_length(words, prompt, prompt, limit)
            # A word that was taught by textual inversion may stand for several tokens.
            convert = getattr(pipeline, "maybe_convert_prompt", None)
            if convert is not None:
                check_length(words, convert(prompt, words), prompt, limit)
        return self.embedded(pipeline, prompt)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.table.prompts[: self.conditions.num_classes]

    @property
    def vae(self) -> Any:
        """The frozen autoencoder."""
        return self.parts["vae"]

    @property
    def text_encoder(self) -> Any:
        """The first of the frozen text encoders."""
        return self.parts["text_encoder"]

    @property
    def tokenizer(self) -> Any:
        """The first of the tokenizers."""
        return self.parts["tokenizer"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width = self.cells
        factor = self.latents.factor
        return self.vae.config.in_channels, height * factor, width * factor

    @property
    def latents(self) -> Latents:
        """The autoencoder as images pass through it."""
        return Latents(self.vae)

    def encode(self, images: Tensor) -> Tensor:
        return self.latents.encode(images)

    def decode(self, x_0: Tensor) -> Tensor:
        return self.latents.decode(x_0)

    def ask(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if condition is None:
            condition = torch.full((x_t.shape[0],), self.table.index(NULL), device=x_t.device)
        dtype = getattr(denoiser, "dtype", x_t.dtype)
        text = {name: rows.to(dtype) for name, rows in self.table.rows(condition).items()}
        return self.predicted(denoiser, x_t.to(dtype), t, text)

    def class_tables(self, denoiser: nn.Module) -> list[nn.Embedding]:  # noqa: ARG002
        return []

    def text_maps(self, denoiser: nn.Module) -> list[TextMap]:
        return maps_ending(denoiser, self.TEXT_MAPS)

    def text_rows(self, denoiser: nn.Module, embedding: str) -> Tensor:  # noqa: ARG002
        return self.table.embeddings[embedding]

    def pipeline(self) -> Any:
        """A pipeline over the same weights, all where the denoiser is, with a scheduler of its own."""
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                part.to(self.denoiser.device)
        return self.resting()

    def resting(self) -> Any:
        """The same pipeline with every part where it is: enough to be written."""
        parts = {self.DENOISER: self.denoiser, **self.parts}
        return self.built(parts, copy.deepcopy(self.scheduler), self.options, self.beside)

    def save(self, directory: Path) -> None:
        """Write a plain pipeline directory; it appears whole or not at all. The table is not part of it."""
        with staged_directory(directory) as staging, quiet():
            self.denoiser.to(memory_format=torch.contiguous_format)  # safetensors stores contiguous tensors only
            self.resting().save_pretrained(staging)
            copy_folders(self.folders, staging)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with a denoiser of its own; what is frozen is shared."""
        memo[id(self)] = made = replace(self, denoiser=copy.deepcopy(self.denoiser, memo))
        return made
