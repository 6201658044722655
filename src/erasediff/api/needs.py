"""Whether a method can work on a model as it is asked: computed from what the method declares, and said in one line."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import Tensor

from erasediff.errors import BadInput, listing
from erasediff.families.base import Model, ReadsText
from erasediff.methods import METHODS
from erasediff.methods.base import Method


def name_of(method: Method) -> str:
    """The name under which a method is listed, or that of its class."""
    for name in METHODS:
        if METHODS[name] is type(method):
            return name
    return type(method).__name__


def described(method: Method) -> dict[str, Any]:
    """What run.json says of a method: name, fields and paper."""
    fields = asdict(method)  # type: ignore[call-overload]
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    return {"name": name_of(method), "fields": plain, "paper": method.PAPER}


def refusal(method: Method, model: Model) -> str | None:
    """Why ``method`` cannot work on ``model`` with its present conditions, and what to do; ``None`` where it can."""
    name, needs, conditions = name_of(method), method.needs, model.conditions
    if needs.classes and len(conditions.classes()) < 2 - bool(conditions.excluded):
        without = listing(_without("classes"))
        return (
            f"method {name} relabels forget samples to another class, or replays the others, and this model has none; "
            "use --method.forget_target auto without timestep_focus and retain_focus (erasediff, weighted_sum), or one "
            f"of: {without}"
        )
    if needs.text_maps and not isinstance(model, ReadsText):
        return (
            f"method {name} edits the maps that read text, and a model of family {model.family} is asked by class "
            f"number or not at all; use one of: {listing(_without('text_maps'))}"
        )
    if needs.own_condition and not conditions.num_classes:
        return (
            f"method {name} changes the answer to what asks for the target, and this model is asked for nothing: it is "
            f"unconditional; use one of: {listing(_without('own_condition'))}"
        )
    if needs.anchor and conditions.anchor is None:
        return (
            f"method {name} leads forget samples to an anchor, and there is none: give --anchor TEXT (to a model that "
            "is asked in words) or --anchor class:NAME (to one that is asked by class), or use another method or "
            "forget_target"
        )
    if conditions.anchor is not None and conditions.anchor in conditions.excluded:
        return f"the anchor is the target itself; give one that is to come in its place to method {name}"
    if needs.null_condition and conditions.num_classes and conditions.null_label is None:
        return (
            f"method {name} needs a null condition, and this model has none: it was not trained for classifier-free "
            "guidance; use another method or forget_target"
        )
    return None


def check_needs(method: Method, model: Model, forgotten: Tensor | None = None) -> None:
    """Raise BadInput where ``method`` cannot work on ``model``. ``forgotten``: labels of the forget set, if it has any.

    A method that changes the answer to a condition changes it for all samples that bear it, so some of them cannot
    be forgotten by it and others be kept.
    """
    if (said := refusal(method, model)) is not None:
        raise BadInput(said)
    if not method.needs.own_condition or forgotten is None:
        return
    partly = sorted(set(forgotten.unique().tolist()) - set(model.conditions.excluded))
    if partly:
        names = listing(model.class_names[c] for c in partly)
        raise BadInput(
            f"method {name_of(method)} forgets all that is asked for by a class or concept, got only some samples of: "
            f"{names}; give a class or concept as the target, or use one of: {listing(_without('own_condition'))}"
        )


def _without(need: str) -> list[str]:
    """The methods that do not need it, with their defaults."""
    kinds = {name: METHODS[name]() for name in METHODS}
    return [name for name, made in kinds.items() if not getattr(made.needs, need)]
