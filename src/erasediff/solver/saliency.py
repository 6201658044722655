"""Which weights matter for a loss: masks of the largest gradients, over all parameters together.

Fan et al.: SalUn. ICLR 2024, arXiv:2310.12508, eq. 4: m = 1(|grad l_f(theta_0)| >= gamma), gamma a quantile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erasediff.errors import BadInput
from erasediff.solver.gram import Gradients


def saliency_mask(gradients: Gradients, share: float) -> list[Tensor]:
    """Masks (bool, shaped as the gradients) of the ``share`` of all elements with the largest magnitudes.

    Exactly ``round(share * elements)`` elements are chosen; ties are broken by position, so that the number is exact
    also where many gradients are zero. Raises BadInput for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise BadInput(f"the mask's share must lie in (0, 1], got {share}")
    magnitudes = torch.cat([g.abs().flatten() for g in gradients])
    chosen = torch.zeros_like(magnitudes, dtype=torch.bool)
    order = magnitudes.argsort(descending=True, stable=True)
    chosen[order[: max(1, round(share * len(magnitudes)))]] = True
    pieces = chosen.split([g.numel() for g in gradients])
    return [piece.reshape(g.shape) for piece, g in zip(pieces, gradients, strict=True)]
