"""Prompts as classes: the distinct prompts of a job and what the text encoder made of them, once.

A label is a row of the table. Methods, pairing and audit know labels only, so a model that is asked in words looks to
them like a class-conditional one; and the text encoder is not needed after the table is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from safetensors.torch import save as serialised
from torch import Tensor

from erasediff.errors import BadInput, listing, nearest

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

    @property
    def fingerprint(self) -> str:
        """SHA-256 of a safetensors file of all this: of the prompts, their order and their embeddings."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.embeddings.items()}
        return hashlib.sha256(serialised(tensors, metadata={"prompts": json.dumps(self.prompts)})).hexdigest()
