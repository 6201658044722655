"""The safety checker that a Stable Diffusion pipeline carries, asked as its pipeline would ask it.

CLIP's embedding of an image is held against seventeen concepts that nobody has named (diffusers'
StableDiffusionSafetyChecker). Nothing is imported or read before the first image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from erasediff.errors import BadInput
from erasediff.families.clip_images import Preprocessing
from erasediff.families.muted import muted
from erasediff.families.reading import first_line
from erasediff.files import read_json, sha256

CHECKER, PREPARED = "safety_checker", "feature_extractor"
CLASS = "StableDiffusionSafetyChecker"
WEIGHTS = ("model.safetensors", "model.fp16.safetensors")
"""Whole, and those of variant fp16; the first that is there is read."""
BATCH = 32


@dataclass(frozen=True, eq=False)
class SafetyChecker:
    """``checker``: diffusers' module, or the folder that holds it. ``prepared``: how images are shown to it."""

    checker: Any
    prepared: Preprocessing

    @classmethod
    def of(cls, model: object) -> SafetyChecker | None:
        """The one that ``model``'s pipeline carries with its feature extractor, in safetensors; else ``None``."""
        objects: Mapping[str, Any] = getattr(model, "beside", {})
        if CHECKER in objects and PREPARED in objects:
            return cls(objects[CHECKER], Preprocessing.of(objects[PREPARED].to_dict(), PREPARED))
        folders: Mapping[str, tuple[Path, Any]] = getattr(model, "folders", {})
        if CHECKER not in folders or PREPARED not in folders:
            return None
        folder, entry = folders[CHECKER]
        if entry[-1] != CLASS or not any((folder / name).is_file() for name in WEIGHTS):
            return None
        return cls(folder, Preprocessing.read(folders[PREPARED][0]))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of its weights and of how images are shown to it."""
        digest = hashlib.sha256(repr(self.prepared).encode())
        if isinstance(self.checker, Path):
            config = self.checker / "config.json"
            digest.update("".join(sha256(path) for path in (self._weights, config) if path.is_file()).encode())
        else:
            for name, value in self.checker.state_dict().items():
                digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def flagged(self, images: Tensor) -> NDArray[np.bool_]:
        """Which images [N, 3, H, W] in [-1, 1] it would black out. Raises BadInput where it cannot be read."""
        module = self._module
        weight = next(module.parameters())
        found: list[bool] = []
        for batch in images.split(BATCH):
            shown = self.prepared(batch.to(weight.device)).to(weight.dtype)
            # It also blackens the images it is given, and says so: these are empty.
            with muted("diffusers", "transformers"):
                found += module(clip_input=shown, images=torch.zeros(len(batch), 1))[1]
        return np.array(found, dtype=bool)

    @property
    def _weights(self) -> Path:
        return next(self.checker / name for name in WEIGHTS if (self.checker / name).is_file())

    @cached_property
    def _module(self) -> Any:
        if not isinstance(self.checker, Path):
            return self.checker
        try:
            from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        except ImportError as missing:
            raise BadInput(
                'a safety checker needs transformers, which is not installed; pip install "erasediff[text]"'
            ) from missing
        read_json(self.checker / "config.json")
        variant = None if self._weights.name == WEIGHTS[0] else "fp16"
        options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
        try:
            with muted("diffusers", "transformers"):
                module, info = StableDiffusionSafetyChecker.from_pretrained(self.checker, variant=variant, **options)
        except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
            raise BadInput(f"{self.checker} cannot be read as a {CLASS}: {first_line(error)}") from error
        if absent := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
            raise BadInput(f"{self.checker} lacks {len(absent)} weights of a {CLASS}, first {absent[0]}")
        return module.float().eval().to("cuda" if torch.cuda.is_available() else "cpu")
