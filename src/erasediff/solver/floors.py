"""The least forget loss over *all* functions, in closed form: mean squared error per element.

With the least known, slack = L_f - floor needs no inner minimisation (arXiv:2401.05779 runs one). A frozen teacher
under a fixed condition has floor 0: the model can be the teacher. A model with few trained weights (LoRA, a subset)
may not reach these floors; compare slacks with the slack at step 0.
"""

from __future__ import annotations

from torch import Tensor

from erasediff.errors import BadInput


def uniform_noise_floor() -> float:
    """1/12: the variance of U[0, 1), left over by the best predictor, the constant 1/2."""
    return 1 / 12


def drawn_teacher_floor(first: Tensor, second: Tensor) -> Tensor:
    """The variance of a teacher under a condition drawn at random, per sample [B], from two independent draws.

    Half the mean squared difference is unbiased for the variance over the drawn conditions, averaged over elements:
    E (a - b)^2 / 2 = Var a. The draws may coincide; drawing *different* conditions would bias it upwards.

    Args:
        first, second: the teacher's predictions [B, ...] at the same x_t and t. Half precision is widened.

    Raises:
        BadInput: the shapes differ.
    """
    if first.shape != second.shape:
        raise BadInput(f"two draws of a teacher must agree in shape, got {list(first.shape)} and {list(second.shape)}")
    difference = first - second if first.element_size() >= 4 else first.float() - second.float()
    return difference.square().reshape(len(first), -1).mean(1) / 2
