"""Answers kept by what they depend on: a stopped audit goes on, and the same question is answered at once."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from erasediff.auditing.finding import Finding
from erasediff.errors import BadInput
from erasediff.files import read_json, write_atomic

Pictures = dict[str, NDArray[np.uint8]]
"""By kind: uint8 [N, H, W, C]."""


class Cache:
    """A folder of ``KEY.json`` and ``KEY.npz``; without a folder it only remembers for as long as it lives."""

    def __init__(self, place: Path | None = None) -> None:
        self.place = place
        self._findings: dict[str, list[Finding]] = {}
        self._pictures: dict[str, Pictures] = {}

    def find(self, key: str) -> list[Finding] | None:
        """The findings kept under ``key``; a damaged file counts as none."""
        if key not in self._findings and self.place is not None and (self.place / f"{key}.json").is_file():
            try:
                records = read_json(self.place / f"{key}.json")
                self._findings[key] = [Finding.from_dict(r) for r in records]
            except (BadInput, KeyError, TypeError):
                return None
        return self._findings.get(key)

    def keep(self, key: str, findings: list[Finding]) -> list[Finding]:
        """Keep them and return them as they will be read again: lists for tuples, text for other keys."""
        # Rows of scores may hold NaN or infinity where a model diverged; this file is ours alone to read.
        text = json.dumps([f.to_dict() for f in findings])
        self._findings[key] = [Finding.from_dict(r) for r in json.loads(text)]
        if self.place is not None:
            self.place.mkdir(parents=True, exist_ok=True)
            write_atomic(self.place / f"{key}.json", text)
        return self._findings[key]

    def pictures(self, key: str) -> Pictures | None:
        """The pictures kept under ``key``; a damaged file counts as none."""
        path = None if self.place is None else self.place / f"{key}.npz"
        if key not in self._pictures and path is not None and path.is_file():
            try:
                # From memory: of a damaged file numpy would leave the handle open.
                with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
                    self._pictures[key] = dict(archive)
            except (OSError, ValueError, EOFError, BadZipFile, zlib.error):
                return None
        return self._pictures.get(key)

    def keep_pictures(self, key: str, pictures: Pictures) -> None:
        self._pictures[key] = pictures
        if self.place is not None:
            self.place.mkdir(parents=True, exist_ok=True)
            stream = io.BytesIO()
            np.savez_compressed(stream, **pictures)  # type: ignore[arg-type]
            write_atomic(self.place / f"{key}.npz", stream.getvalue())


def key_of(*parts: Any, **named: Any) -> str:
    """A short name for everything given: JSON of it, hashed."""
    text = json.dumps([list(parts), named], sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def state_fingerprint(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of all weights of ``module``."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name}{value.dtype}{[*value.shape]}".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
