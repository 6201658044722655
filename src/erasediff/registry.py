"""Tables of named things (methods, families, metrics, attacks) that load only what is asked for.

A table maps a name to ``"module:attribute"``. Others' packages add rows through entry points of the
table's group, for example::

    [project.entry-points."erasediff.methods"]
    my_method = "my_package.my_method:MyMethod"
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

from erasediff.errors import unknown


class Registry(Mapping[str, Any]):
    """A read-only mapping from name to object; the object's module is imported at the first look-up."""

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)

    @cached_property
    def _installed(self) -> dict[str, str]:
        return {e.name: e.value for e in entry_points(group=self.group)}  # reads every installed package's metadata

    def _rows(self) -> dict[str, str]:
        # Built-in rows win: an installed package cannot silently replace what a name means.
        return self._installed | self._builtin

    def __getitem__(self, name: str) -> Any:
        rows = self._rows()
        if name not in rows:
            raise unknown(self.kind, name, rows)
        module, _, attribute = rows[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._rows()))

    def __len__(self) -> int:
        return len(self._rows())

    def __contains__(self, name: object) -> bool:
        return name in self._rows()
