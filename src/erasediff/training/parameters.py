"""Which weights are trained: named sets addressed by module path, or a glob over parameter names."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

from torch import nn

from erasediff.errors import BadInput, listing

# diffusers names attention modules `attentions.N` in UNets and `attn`, `attn1`, `attn2` in transformers.
SETS: dict[str, Callable[[str], bool]] = {
    "full": lambda name: True,
    "attention": lambda name: ".attentions." in name or ".attn" in name,
    "no_attention": lambda name: ".attentions." not in name and ".attn" not in name,
}


def select(module: nn.Module, spec: str) -> dict[str, nn.Parameter]:
    """Let gradients flow to the parameters that ``spec`` names, and to no other. Raises BadInput if there are none."""
    chosen = SETS.get(spec, lambda name: fnmatchcase(name, spec))
    trained = {}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(chosen(name))
        if chosen(name):
            trained[name] = parameter
    if not trained:
        modules = sorted({name.split(".")[0] for name, _ in module.named_parameters()})
        raise BadInput(
            f"parameters {spec!r} names no weight of this model; allowed: {listing(SETS)}, "
            f"or a glob such as 'mid_block.*' (top modules: {listing(modules)})"
        )
    return trained
