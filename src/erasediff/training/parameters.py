"""Which weights are trained: named sets and globs, by module path. No torch at import: the flags read the names.

diffusers renames its attention processors every few releases, but not the projections: a module is attention where it
has a ``to_q``. Text comes in through ``attn2`` in UNets and in transformers with cross-attention, and through the
projections of the second stream (``add_k_proj`` and so on) in the joint blocks of MMDiT (Esser et al. 2024,
arXiv:2403.03206, sec. 4), whose ``attn2``, where there is one, is the image's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import TYPE_CHECKING

from erasediff.errors import BadInput, listing, nearest

if TYPE_CHECKING:
    from torch import nn

AUTO = "auto"
QUERY = "to_q"  # and to_qkv, where the projections are one
CROSS = "attn2"
TEXT_STREAM = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_q", "norm_added_k")


def _paths(name: str) -> Iterator[str]:
    """The modules that hold a weight, outermost first, then the weight: ``a``, ``a.b``, ``a.b.weight``."""
    return accumulate(name.split("."), lambda path, part: f"{path}.{part}")


def _full(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}


def _attention(module: nn.Module) -> set[str]:
    blocks = {name for name, m in module.named_modules() if any(c.startswith(QUERY) for c, _ in m.named_children())}
    return {name for name in _full(module) if not blocks.isdisjoint(_paths(name))}


def _cross_attention(module: nn.Module) -> set[str]:
    crossing = {
        name
        for name, m in module.named_modules()
        if name.split(".")[-1] == CROSS and getattr(m, "is_cross_attention", True)
    }
    return {
        name
        for name in _attention(module)
        if not crossing.isdisjoint(_paths(name)) or not set(TEXT_STREAM).isdisjoint(name.split("."))
    }


SETS: dict[str, Callable[[nn.Module], Set[str]]] = {
    "full": _full,
    "cross_attention": _cross_attention,
    "no_cross_attention": lambda module: _full(module) - _cross_attention(module),
    "attention": _attention,
    "no_attention": lambda module: _full(module) - _attention(module),
}


def named(module: nn.Module, spec: str) -> list[str]:
    """The names of the weights that ``spec`` means, in the module's order.

    ``spec``: a set, or globs with commas between them, each for a weight or for a module that holds some. Raises
    BadInput, with what the module has, where it means none.
    """
    if spec in SETS:
        found = SETS[spec](module)
    else:
        globs = [glob.strip() for glob in spec.split(",")]
        found = {n for n in _full(module) if any(fnmatchcase(path, g) for path in _paths(n) for g in globs)}
    if not found:
        meant = "" if spec in SETS else nearest(spec, SETS)
        has = [name for name, members in SETS.items() if members(module)]
        modules = sorted({name.split(".")[0] for name in _full(module)})
        raise BadInput(
            f"parameters {spec!r} names no weight of this {type(module).__name__}{meant}; it has: "
            f"{listing(has)}; or give a glob such as 'mid_block.*' (top modules: {listing(modules)})"
        )
    return [name for name, _ in module.named_parameters() if name in found]


def select(module: nn.Module, spec: str) -> dict[str, nn.Parameter]:
    """Let gradients flow to the weights that ``spec`` means, and to no other. Raises BadInput where it means none."""
    chosen = set(named(module, spec))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in chosen)
    return {name: parameter for name, parameter in module.named_parameters() if name in chosen}
