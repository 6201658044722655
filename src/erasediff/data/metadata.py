"""``metadata.jsonl``: the file that says of the images in its folder what they show, a JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from erasediff.errors import BadInput
from erasediff.files import read_text

METADATA = "metadata.jsonl"
EXAMPLE = '{"file_name": "one.png", "text": "red hat"}'


def rows(root: Path) -> list[dict[str, Any]]:
    """The rows of ``root/metadata.jsonl``, each with a ``file_name``.

    Raises BadInput for a file that is no text or has no row, and for a line that is no JSON object or names no image.
    """
    found = []
    for number, line in enumerate(read_text(root / METADATA).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{root / METADATA} line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{where} is not JSON: {error.msg}") from None
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise BadInput(f"{where} has no file_name; a line is like {EXAMPLE}")
        found.append(row)
    if not found:
        raise BadInput(f"{root / METADATA} names no image; a line is like {EXAMPLE}")
    return found
