"""UCE: the maps that read text are edited in closed form, so that the concept is read as something else.

Gandikota, Orgad, Belinkov, Materzynska, Bau: Unified Concept Editing in Diffusion Models. WACV 2024, arXiv:2308.14761.

    W = (lambda W_0 + sum v* c^T) (lambda I + sum c c^T)^-1                                                     eq. 7

over the rows c of erased prompts, with v* = W_0 c_anchor, and of prompts that stay, with v* = W_0 c; the solution is in
:mod:`erasediff.solver.closed_form`. No images, no steps, no gradients. The
two sums are means here, so that what is erased weighs the same however many prompts stay; where all can be met, weights
do not matter.

Which rows of a prompt enter. The paper takes the last token of the concept. A causal text encoder carries the concept
into every row after it, padding included, so that a model still sees it there; hence every row enters that no prompt to
be kept has at the same place. The words before the concept are left out by this. A prompt's row i is led to row i of
the prompt that says the anchor in its place, in the same words otherwise (or of the empty prompt): so a model whose
erased rows all arrive answers to the one exactly as it did to the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from erasediff.errors import BadInput, check_finite, check_one_of
from erasediff.families.base import Model, ReadsText
from erasediff.methods.base import Concepts, Needs
from erasediff.solver.closed_form import edit_matrix

AUTO, TOWARDS = "auto", ("anchor", "unconditional")
SAME = 1e-4  # relative distance at which two rows say the same


@dataclass(frozen=True, kw_only=True)
class UCE:
    """A closed-form edit of keys and values (or of whatever else reads the text).

    Args:
        towards: what the erased prompts are read as: ``anchor``, ``unconditional`` (the empty prompt), or ``auto``:
            the anchor where one is given, else the empty prompt.
        ridge: lambda, how firmly weights are held everywhere, in units of the mean squared length of the erased rows.
        erase_weight: weight of the rows of all erased prompts together.
        preserve_weight: weight of the rows of all prompts that stay, together.
    """

    towards: str = AUTO
    ridge: float = 3e-3
    erase_weight: float = 1.0
    preserve_weight: float = 1.0

    PAPER: ClassVar[str] = "arXiv:2308.14761"
    SUMMARY: ClassVar[str] = "closed-form edit of the maps that read text: no steps, no images"

    def __post_init__(self) -> None:
        check_one_of("towards", self.towards, [AUTO, *TOWARDS])
        for name in ("ridge", "erase_weight"):
            if not 0 < getattr(self, name) < float("inf"):
                raise BadInput(f"{name} must be finite and above 0, got {getattr(self, name)}")
        check_finite(self, "preserve_weight")

    @property
    def needs(self) -> Needs:
        return Needs(
            forget_set=False,
            retain_set=False,
            own_condition=True,
            anchor=self.towards == "anchor",
            null_condition=self.towards == "unconditional",
            text_maps=True,
        )

    @torch.no_grad()
    def edit(self, model: Model, concepts: Concepts) -> dict[str, Tensor]:
        if not isinstance(model, ReadsText):
            raise BadInput(f"family {model.family} has no maps that read text, which this method edits")
        instead = self._instead(concepts, model.conditions.null_label)
        weights, matrices, edited = dict(model.denoiser.named_parameters()), dict[str, Tensor](), dict[str, Tensor]()
        for name, embedding in model.text_maps(model.denoiser):
            weight = weights[name]
            if embedding not in matrices:
                rows = model.text_rows(model.denoiser, embedding)
                matrices[embedding] = self.matrix(rows, instead, concepts.kept)
            edited[name] = (weight.double() @ matrices[embedding]).to(weight.dtype)
        return edited

    def forward_equivalents(self) -> float:
        return 0

    def matrix(self, rows: Tensor, instead: Mapping[int, int], kept: Sequence[int]) -> Tensor:
        """The change of text embeddings [D, D] that ``rows`` [P, L, D] (or [P, D]) of all prompts call for."""
        rows = rows.double().reshape(rows.shape[0], -1, rows.shape[-1])
        sources, targets, held = chosen_rows(rows, instead, kept)
        ridge = self.ridge * float(sources.square().sum(1).mean())
        erase, preserve = self.erase_weight / len(sources), self.preserve_weight / max(1, len(held))
        return edit_matrix(sources, targets, held, ridge=ridge, source_weight=erase, kept_weight=preserve)

    def _instead(self, concepts: Concepts, null_label: int | None) -> Mapping[int, int]:
        """For each erased label that of what it is read as."""
        if concepts.instead and self.towards != "unconditional":
            return concepts.instead
        if null_label is None or self.towards == "anchor":
            raise BadInput("there is nothing that the erased prompts could be read as; give --anchor TEXT")
        return dict.fromkeys(concepts.erased, null_label)


def chosen_rows(rows: Tensor, instead: Mapping[int, int], kept: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """(sources [n, D], targets [n, D], kept [m, D]) among the ``rows`` [P, L, D] of all prompts.

    Kept are all rows, each once, of the prompts that stay. Raises BadInput for an erased prompt that cannot be told
    from those.
    """
    held, sources, targets = rows[list(kept)], [], []
    for label, other in instead.items():
        own = rows[label]
        told = ((held - own).norm(dim=-1) > SAME * own.norm(dim=-1)).all(0)
        if not told.any():
            raise BadInput(f"prompt {label} of those to be erased says the same as one that stays; name the concept")
        sources.append(own[told])
        targets.append(rows[other][told])
    return torch.cat(sources), torch.cat(targets), held.flatten(0, 1).unique(dim=0)
