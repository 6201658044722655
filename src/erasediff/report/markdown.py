"""Text of others inside Markdown: nothing in it may become markup."""

from __future__ import annotations

import html
import re

_SPECIAL = re.compile(r"([\\`*_{}\[\]!|~])")
_LEADING = re.compile(r"^(\d*)([#+.)-])")  # what would begin a heading or a list
_CODE = re.compile(r"[\w.,:;/=@%+ -]+")


def escaped(text: object) -> str:
    """One line in which neither HTML nor Markdown is read."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    return _LEADING.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", line))


def code(text: object) -> str:
    """A code span where the text is harmless, escaped text where not."""
    line = " ".join(str(text).split())
    return f"`{line}`" if _CODE.fullmatch(line) else escaped(line)
