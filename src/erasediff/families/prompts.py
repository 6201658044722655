"""Prompts as classes: the distinct prompts of a job and what the text encoder made of them, once.

A label is a row of the table. Methods, pairing and audit know labels only, so a model that is asked in words looks to
them like a class-conditional one; and the text encoder is not needed after the table is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from erasediff.errors import BadInput, listing, nearest
from erasediff.files import write_atomic

NULL = ""


@dataclass(frozen=True, eq=False)
class PromptTable:
    """Distinct prompts and their text embeddings, row by row.

    ``embeddings``: by the name under which the denoiser takes it, a tensor whose first dimension is the prompt, such
    as ``encoder_hidden_states`` [P, L, D]. The empty prompt is the null condition and, where there is one, stands last:
    so that labels 0, 1, ... are the other prompts, and stay what they are when the table grows.
    Raises BadInput where prompts repeat, the empty one is not last, or a tensor has another number of rows.
    """

    prompts: tuple[str, ...]
    embeddings: Mapping[str, Tensor]
    _rows: dict[str, int] = field(init=False, repr=False)
    _moved: dict[torch.device, dict[str, Tensor]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rows", {prompt: row for row, prompt in enumerate(self.prompts)})
        if len(self._rows) != len(self.prompts):
            twice = next(p for row, p in enumerate(self.prompts) if self._rows[p] != row)
            raise BadInput(f"prompt {twice!r} is in the table twice; give each prompt once")
        if NULL in self.prompts[:-1]:
            raise BadInput(f"the empty prompt is row {self._rows[NULL]} of {len(self.prompts)}; it must be the last")
        counts = {name: tensor.shape[0] if tensor.dim() else 0 for name, tensor in self.embeddings.items()}
        wrong = [f"{name} has {count}" for name, count in counts.items() if count != len(self.prompts)]
        if wrong:
            raise BadInput(f"a table of {len(self.prompts)} prompts needs a row for each, but {listing(wrong)}")

    def __len__(self) -> int:
        return len(self.prompts)

    def index(self, prompt: str) -> int:
        """The label of ``prompt``. Raises BadInput, with the nearest prompt, where it is not in the table."""
        if prompt not in self._rows:
            raise BadInput(
                f"prompt {prompt!r} is none of the {len(self)} prompts of this model{nearest(prompt, self.prompts)}; "
                "give one of them, or make the table with it"
            )
        return self._rows[prompt]

    def rows(self, labels: Tensor) -> dict[str, Tensor]:
        """The embeddings of ``labels`` [B] by name, each [B, ...], on the labels' device (moved there once)."""
        device = labels.device
        if device not in self._moved:
            self._moved[device] = {name: tensor.to(device) for name, tensor in self.embeddings.items()}
        return {name: tensor[labels] for name, tensor in self._moved[device].items()}

    def extended(self, more: PromptTable) -> PromptTable:
        """These prompts, then those of ``more`` that are new, in their order; the empty prompt stays last.

        A prompt that both have keeps the embedding it has here. Raises BadInput for tensors of other names or shapes.
        """
        if {n: t.shape[1:] for n, t in self.embeddings.items()} != {n: t.shape[1:] for n, t in more.embeddings.items()}:
            raise BadInput(
                f"tables of different text encoders cannot be joined: {_shapes(self)} here, {_shapes(more)} there"
            )
        new = [p for p in more.prompts if p not in self._rows]
        order = sorted([*self.prompts, *new], key=lambda prompt: prompt == NULL)
        here, there = list(self.prompts), [more.index(p) for p in new]
        place = {prompt: row for row, prompt in enumerate([*here, *new])}
        chosen = [place[prompt] for prompt in order]
        joined = {n: torch.cat([t, more.embeddings[n][there].to(t)])[chosen] for n, t in self.embeddings.items()}
        return PromptTable(tuple(order), joined)

    def save(self, path: Path) -> None:
        """Write one safetensors file; the prompts are JSON in its metadata."""
        write_atomic(path, self._file())

    @classmethod
    def load(cls, path: Path) -> PromptTable:
        """Read what :meth:`save` wrote. Raises BadInput for a file that is missing, broken or no prompt table."""
        if not path.is_file():
            raise BadInput(f"prompt table {path} does not exist; give a file that PromptTable.save wrote")
        try:
            with safe_open(path, framework="pt") as stored:
                prompts = json.loads((stored.metadata() or {})["prompts"])
                names = list(stored.keys())
                return cls(tuple(map(str, prompts)), {name: stored.get_tensor(name) for name in names})
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise BadInput(f"{path} is no prompt table: {error}; give a file that PromptTable.save wrote") from error

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file that :meth:`save` writes: of the prompts, their order and their embeddings."""
        return hashlib.sha256(self._file()).hexdigest()

    def _file(self) -> bytes:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.embeddings.items()}
        return serialised(tensors, metadata={"prompts": json.dumps(self.prompts)})


def _shapes(table: PromptTable) -> str:
    return listing(f"{name} {[*tensor.shape[1:]]}" for name, tensor in table.embeddings.items())
