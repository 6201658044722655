"""The Hugging Face Hub as a place that models come from: what is fetched, and which commit it was."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from erasediff.errors import BadInput

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
WORDS = ["*/merges.txt", "*/spiece.model", "*/chat_template.jinja"]
# No pickles and no code; a chat template says how a prompt is framed, and transformers fills it in a sandbox. Weights
# beside the folders are the whole model once more, in one file for other programs.
FETCHED = ["*.json", "*/*.safetensors", *WORDS]
CONFIGURATION = ["*.json", *WORDS]


def is_id(source: object) -> bool:
    """Whether ``source`` names a model of the Hub: ``owner/name`` or ``owner/name@revision``, and no path here."""
    return HUB_ID.fullmatch(str(source)) is not None and not Path(str(source)).exists()


def snapshot(hub_id: str, patterns: Sequence[str] = tuple(FETCHED), what: str = "") -> Path:
    """Fetch the files of a Hub id that match ``patterns`` into the Hub's own cache, and return the directory.

    ``what`` says in the error what cannot be had. Raises BadInput then.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    name, _, revision = hub_id.partition("@")
    try:
        found = snapshot_download(name, revision=revision or None, allow_patterns=list(patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        told = what or f"model {hub_id!r} is no path here, and"
        raise BadInput(f"{told} cannot be had from the Hub: {reason}") from error
    return Path(found)


def named(hub_id: str, found: Path) -> dict[str, str | None]:
    """``id`` and ``revision`` of what ``hub_id`` turned out to be, in the directory ``found``.

    The Hub's cache calls a snapshot by its commit. ``revision`` is that; else what was asked for, if anything was.
    """
    name, _, revision = hub_id.partition("@")
    commit = next((part for part in reversed(found.parts) if COMMIT.fullmatch(part)), None)
    return {"id": name, "revision": commit or revision or None}
