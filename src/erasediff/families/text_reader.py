"""What a search for words may touch of a CLIP text encoder: its token table, and reading from any vectors.

Reading from vectors instead of tokens is what textual inversion does (Gal et al. 2022, arXiv:2208.01618, sec. 4): the
vectors stand in the place of the table's, and all that follows is the frozen encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from erasediff.errors import BadInput
from erasediff.families.base import ClassConditions, Model
from erasediff.families.prompts import NULL, PromptTable

NAME = "encoder_hidden_states"


@dataclass(frozen=True, eq=False)
class OneEncoder:
    """The :class:`erasediff.families.base.TextReader` of a model with one CLIP tokenizer and text encoder.

    ``model`` is a dataclass with ``pipeline()``, ``table`` (of rows called ``encoder_hidden_states``) and
    ``conditions``. The encoder is read where the denoiser is.
    """

    model: Any

    @cached_property
    def _pipeline(self) -> Any:
        return self.model.pipeline()

    @property
    def vectors(self) -> Tensor:
        found: Tensor = self._pipeline.text_encoder.get_input_embeddings().weight
        return found.detach()

    @property
    def room(self) -> int:
        return int(self._pipeline.tokenizer.model_max_length) - 2

    @cached_property
    def words(self) -> Tensor:
        tokenizer = self._pipeline.tokenizer
        every = [t for t in range(min(len(tokenizer), len(self.vectors))) if t not in tokenizer.all_special_ids]
        read = tokenizer([tokenizer.decode([t]) for t in every], verbose=False).input_ids
        return torch.tensor([t for t, ids in zip(every, read, strict=True) if ids[1:-1] == [t]], dtype=torch.long)

    def tokens(self, prompt: str) -> tuple[int, ...]:
        tokenizer = self._pipeline.tokenizer
        said = self._pipeline.maybe_convert_prompt(prompt, tokenizer)  # as the pipeline does, for learned tokens
        return tuple(tokenizer(said, verbose=False).input_ids[1:-1])

    def spelled(self, tokens: Sequence[int]) -> str | None:
        tokenizer = self._pipeline.tokenizer
        if set(tokens) & set(tokenizer.all_special_ids):
            return None
        text = str(tokenizer.decode(list(tokens)))
        return text if self.tokens(text) == tuple(tokens) else None

    def read(self, vectors: Tensor) -> dict[str, Tensor]:
        rows, count = vectors.shape[:2]
        if count > self.room:
            raise BadInput(f"a prompt of {count} tokens is too long: the model reads {self.room}; give fewer")
        encoder = self._pipeline.text_encoder
        ids = self._framed(count).to(self.vectors.device)
        frame = self.vectors[ids].expand(rows, -1, -1)
        whole = torch.cat([frame[:, :1], vectors.to(frame), frame[:, count + 1 :]], 1)
        table = encoder.get_input_embeddings()
        hook = table.register_forward_hook(lambda module, given, found: whole)
        try:
            return {NAME: encoder(ids.expand(rows, -1), attention_mask=None)[0]}
        finally:
            hook.remove()

    def _framed(self, count: int) -> Tensor:
        """Token ids [L] of a prompt of ``count`` tokens, which stand as 0 here."""
        tokenizer = self._pipeline.tokenizer
        padding = [tokenizer.pad_token_id] * (self.room - count)
        return torch.tensor([tokenizer.bos_token_id, *[0] * count, tokenizer.eos_token_id, *padding])

    def with_rows(self, rows: Mapping[str, Tensor]) -> Model:
        count, device = len(rows[NAME]), rows[NAME].device
        null = self.model.table.rows(torch.tensor([self.model.table.index(NULL)], device=device))
        names = (*(f"row {k}" for k in range(count)), NULL)
        table = PromptTable(names, {name: torch.cat([rows[name], one.to(rows[name])]) for name, one in null.items()})
        made: Model = replace(self.model, table=table, conditions=ClassConditions(count, count))
        return made
