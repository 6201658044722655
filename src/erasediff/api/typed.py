"""Values of a YAML file in the types of the fields they are meant for. YAML reads ``1e-4`` as text, for one."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from erasediff.errors import BadInput, unknown


def mapping(what: str, given: Any) -> dict[str, Any]:
    """``given`` as a dictionary with text keys; nothing counts as an empty one. Raises BadInput for anything else."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise BadInput(f"{what} must be a mapping of names to values, got {given!r}")
    return {str(k): v for k, v in given.items()}


def several(what: str, given: Any, each: Callable[[str, Any], Any]) -> list[Any]:
    """A list without repetition, every entry read by ``each``. Raises BadInput."""
    if not isinstance(given, (list, tuple)) or not given:
        raise BadInput(f"{what} must be a list, not empty, got {given!r}")
    made = [each(f"an entry of {what}", v) for v in given]
    if len(set(made)) < len(made):
        raise BadInput(f"{what} holds an entry twice: {given}")
    return made


def integer(what: str, given: Any) -> int:
    """A whole number, at least 0, also as text. Raises BadInput."""
    found = converted(what, int, given)
    if found < 0:
        raise BadInput(f"{what} must not be negative, got {given}")
    return int(found)


def typed(what: str, kind: type, given: Any, *, refused: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Fields of the dataclass ``kind`` in their types. ``refused``: field -> what to do instead. Raises BadInput."""
    hints, allowed, made = typing.get_type_hints(kind), [f.name for f in fields(kind)], {}
    for name, value in mapping(what, given).items():
        if name in (refused or {}):
            raise BadInput(f"{what} cannot set {name}: {(refused or {})[name]}")
        if name not in allowed:
            raise unknown(f"key of {what}", name, allowed)
        made[name] = converted(f"{what}: {name}", hints[name], value)
    return made


def converted(what: str, hint: Any, value: Any) -> Any:
    """``value`` as the type of a field. Raises BadInput where it cannot be meant so."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None:
            return None
        return converted(what, next(a for a in typing.get_args(hint) if a is not type(None)), value)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise BadInput(f"{what} must be a list, got {value!r}")
        return tuple(converted(what, typing.get_args(hint)[0], v) for v in value)
    if hint not in _READ:
        return value
    try:
        return _READ[hint](value)
    except (TypeError, ValueError):
        raise BadInput(f"{what} must be {_NAMES[hint]}, got {value!r}") from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError
    return int(value)


def _real(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _text(value: Any) -> str:
    # YAML reads a bare no as false, and `mixed_precision: no` is meant as the word.
    return {False: "no", True: "yes"}[value] if isinstance(value, bool) else str(value)


_READ: dict[Any, Callable[[Any], Any]] = {int: _whole, float: _real, bool: _truth, str: _text}
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
