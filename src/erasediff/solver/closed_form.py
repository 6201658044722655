"""Editing linear maps in closed form: some inputs are to be answered as others are, the rest as before.

Gandikota, Orgad, Belinkov, Materzynska, Bau: Unified Concept Editing in Diffusion Models. WACV 2024, arXiv:2308.14761.

    W = argmin  sum_i a ||W s_i - W_0 t_i||^2 + sum_j b ||W k_j - W_0 k_j||^2 + lambda ||W - W_0||^2
      = (lambda W_0 + sum_i a W_0 t_i s_i^T + sum_j b W_0 k_j k_j^T) M^-1
    M = lambda I + sum_i a s_i s_i^T + sum_j b k_j k_j^T

with sources s, targets t and kept inputs k. Since every wanted answer is W_0 times something, W = W_0 T with one matrix

    T = I + sum_i a (t_i - s_i) s_i^T M^-1

which knows nothing of W_0: it is found once and serves every map that reads the same inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erasediff.errors import BadInput


def edit_matrix(
    sources: Tensor,
    targets: Tensor,
    kept: Tensor,
    *,
    ridge: float,
    source_weight: float = 1.0,
    kept_weight: float = 1.0,
) -> Tensor:
    """T [D, D] in fp64, the identity where there are no sources.

    Args:
        sources: [n, D], inputs whose answers are to change.
        targets: [n, D], the inputs whose present answers they are to get.
        kept: [m, D], inputs whose answers are to stay.
        ridge: lambda, above 0. As it goes to 0, inputs that are linearly independent are met exactly.
        source_weight: a. kept_weight: b.

    Raises:
        BadInput: shapes that do not belong together, or a lambda that is not above 0.
    """
    if sources.shape != targets.shape or sources.dim() != 2 or kept.shape[1:] != sources.shape[1:]:
        raise BadInput(
            f"sources and targets must be [n, D] and kept [m, D], got {[*sources.shape]}, {[*targets.shape]}, "
            f"{[*kept.shape]}"
        )
    if not ridge > 0:
        raise BadInput(f"ridge must be above 0, got {ridge}")
    size = sources.shape[1]
    s, t, k = sources.double(), targets.double(), kept.double()
    c = torch.cat([s * source_weight**0.5, k * kept_weight**0.5])
    eye = torch.eye(min(len(c), size), dtype=c.dtype, device=c.device)
    # C (lambda I + C^T C)^-1 = (lambda I + C C^T)^-1 C: whichever system is the smaller.
    if len(c) < size:
        gain = torch.linalg.solve(ridge * eye + c @ c.T, c)
    else:
        gain = torch.linalg.solve(ridge * eye + c.T @ c, c.T).T
    identity = torch.eye(size, dtype=c.dtype, device=c.device)
    return identity + (t - s).T @ gain[: len(s)] * source_weight**0.5
