"""Half precision where a network is asked, and nowhere else: weights, losses and a sampler's arithmetic stay fp32.

No torch at import: the flags read the names.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FULL = "no"
AUTOCAST = {FULL: None, "bf16": "bfloat16", "fp16": "float16"}
"""What ``mixed_precision`` may be -> torch's name of the type in which autocast multiplies and convolves."""


def autocast(device: torch.device, mixed_precision: str) -> AbstractContextManager[object]:
    """What a network on ``device`` is asked within; ``no`` leaves an autocast around it as it is."""
    import torch

    name = AUTOCAST[mixed_precision]
    return nullcontext() if name is None else torch.autocast(device.type, getattr(torch, name))
