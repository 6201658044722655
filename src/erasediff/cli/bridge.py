"""From dataclass fields to flags: a thin bridge, so that a field written once is a flag, a YAML key and a help line.

Every flag is left out of the result unless it was given: a flag replaces a file's value, and a file a default.
"""

from __future__ import annotations

import argparse
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from erasediff.errors import BadInput, listing, nearest
from erasediff.files import read_text

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, no abbreviated flags, and the nearest real name for an unknown one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (see `{self.prog} --help`)")

    def flags(self) -> list[str]:
        return [s for action in self._actions for s in action.option_strings if s.startswith("--")]

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """The flags that were given, by name. Raises BadInput for unknown ones."""
        options, extra = self.parse_known_args(argv)
        if extra:
            flag = extra[0].partition("=")[0]
            kind = "flag" if flag.startswith("-") else "argument"
            raise BadInput(f"unknown {kind} {flag}{nearest(flag, self.flags())} (see `{self.prog} --help`)")
        return vars(options)


def parse_bool(text: str) -> bool:
    """true/yes/on/1 or false/no/off/0."""
    if text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(TRUE + FALSE)}")


def _number(kind: type) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {'a whole' if kind is int else 'a'} number") from None

    return parse


PARSERS: dict[Any, Callable[[str], Any]] = {bool: parse_bool, int: _number(int), float: _number(float), str: str}


def _unwrapped(hint: Any) -> tuple[Any, bool]:
    """The type to parse, and whether several are taken: ``float | None`` -> float, ``tuple[int, ...]`` -> int."""
    options = [a for a in typing.get_args(hint) if a is not type(None)]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return _unwrapped(options[0])
    if typing.get_origin(hint) is tuple:
        return options[0], True
    return hint, False


def descriptions(kind: type) -> dict[str, str]:
    """``Args:`` entries of a docstring, by field name; those of base classes are inherited."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        body = inspect.cleandoc(base.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n     .*)*)", body, re.MULTILINE):
            found[name] = " ".join(text.split()).replace("``", "")
    return found


def add_fields(
    parser: Parser,
    kind: type,
    title: str,
    *,
    prefix: str = "",
    defaults: Any = None,
    chosen: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """A flag for every field of the dataclass ``kind``, with the defaults of ``defaults`` (an instance) shown.

    ``chosen``: by field, what is said in place of a default that is chosen later.
    """
    group = parser.add_argument_group(title)
    hints, said = typing.get_type_hints(kind), descriptions(kind)
    shown = defaults if defaults is not None else kind()
    for field in fields(kind):
        parse, several = _unwrapped(hints[field.name])
        options: dict[str, Any] = {"type": PARSERS[parse], "default": argparse.SUPPRESS}
        if several:
            options["nargs"] = "+"
        elif parse is bool:
            options |= {"nargs": "?", "const": True}
        default = chosen.get(field.name, getattr(shown, field.name))
        names = f" Names: {', '.join(field.metadata['names'])}." if "names" in field.metadata else ""
        text = f"{said.get(field.name, '')}{names} (default: {default})".strip().replace("%", "%%")
        group.add_argument(f"--{prefix}{field.name}", metavar=field.name.split("_")[-1].upper(), help=text, **options)


def chosen_fields(kind: type, given: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Those entries of ``given`` that are fields of ``kind``, without the prefix; lists become tuples."""
    found = {f.name: given[prefix + f.name] for f in fields(kind) if prefix + f.name in given}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}


def read_config(path: str) -> dict[str, Any]:
    """A YAML file of flag names and values. Raises BadInput when it is missing or no mapping."""
    import yaml

    try:
        loaded = yaml.safe_load(read_text(Path(path))) or {}
    except BadInput as error:
        raise BadInput(f"--config: {error}") from None
    except yaml.YAMLError as error:
        raise BadInput(f"--config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise BadInput(f"--config {path} must hold a mapping of flag names to values, got a {type(loaded).__name__}")
    return {str(k): v for k, v in loaded.items()}


def _written(value: Any, action: argparse.Action) -> str:
    """A file's value as it was typed: YAML reads a bare no as false, and ``mixed_precision: no`` means the word."""
    if isinstance(value, bool) and action.type is not parse_bool and action.nargs != 0:
        return "yes" if value else "no"
    return str(value)


def from_config(parser: Parser, entries: dict[str, Any], path: str) -> list[str]:
    """A file's entries as the arguments they stand for, so that both are checked and converted in one place."""
    known = {a.dest: a for a in parser._actions if a.option_strings and a.dest not in ("help", "config")}
    known |= {a.dest: a for a in parser._actions if not a.option_strings}
    argv: list[str] = []
    for name, value in entries.items():
        if name not in known:
            raise BadInput(f"--config {path}: unknown key {name!r}{nearest(name, known)}")
        if value is None:
            continue
        action = known[name]
        several = isinstance(action, argparse._AppendAction) or action.nargs in ("+", "*")
        if isinstance(value, list) and not several:
            raise BadInput(f"--config {path}: {name} takes one value, got {len(value)}: {listing(value)}")
        values = [_written(v, action) for v in (value if isinstance(value, list) else [value])]
        if action.nargs == 0:  # a switch: given or not, without a value
            try:
                argv += [action.option_strings[0]] * parse_bool(str(value))
            except argparse.ArgumentTypeError as error:
                raise BadInput(f"--config {path}: {name}: {error}") from None
            continue
        if not action.option_strings:
            argv = [*values, *argv]
        elif isinstance(action, argparse._AppendAction):
            argv += [part for v in values for part in (action.option_strings[0], v)]
        else:
            argv += [action.option_strings[0], *values]
    return argv
