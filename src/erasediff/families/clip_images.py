"""Images as CLIP was shown them: resized, cropped and scaled as its preprocessor configuration says.

A resize goes through torch (torchvision is not needed): along rows, then along columns, rounded to whole numbers of 0
to 255 after each, as Pillow does. Against Pillow no value differs by more than one, and bicubic ones seldom do; where
nothing is resized both are equal. (Pillow 13 may begin with the columns where the aspect ratio is to change; CLIP's own
configuration keeps it.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from erasediff.errors import BadInput, listing
from erasediff.files import read_json

FILES = ("preprocessor_config.json", "processor_config.json")
"""Where a directory says how its images are prepared: the older file, and the one of transformers 5."""
MODES = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the resampling filters that torch has too."""
RGB, GREY = 3, 1


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """``resize``: to this height and width, or with one number the shorter side to it; ``None``: not resized.

    ``crop``: height and width of the middle that is kept. ``scale`` times the values of 0 to 255, less ``mean``, over
    ``std`` (a number a channel), is what the model takes.
    """

    resize: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    mode: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, directory: Path) -> Preprocessing:
        """What the directory of a CLIP model, or of a pipeline's ``feature_extractor``, says. Raises BadInput."""
        found = next((directory / name for name in FILES if (directory / name).is_file()), None)
        if found is None:
            raise BadInput(f"{directory} does not say how images are prepared: {listing(FILES)} is missing")
        config = read_json(found)
        return cls.of(config.get("image_processor", config) if isinstance(config, dict) else {}, str(found))

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> Preprocessing:
        """From an image processor's configuration. Raises BadInput, naming ``where``, for what is not CLIP's form."""
        mode = config.get("resample", 3)
        if mode not in MODES:
            raise BadInput(f"{where}: resample {mode} is none of {listing(f'{k} ({v})' for k, v in MODES.items())}")
        try:
            normalised = bool(config.get("do_normalize", True))
            mean, std = (
                tuple(float(v) for v in config[f"image_{name}"]) if normalised else (other,) * RGB
                for name, other in (("mean", 0.0), ("std", 1.0))
            )
            return cls(
                resize=_size(config["size"]) if config.get("do_resize", True) else None,
                crop=_square(config["crop_size"]) if config.get("do_center_crop", True) else None,
                mode=MODES[mode],
                scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
                mean=mean,
                std=std,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{where} is no image processor of CLIP: {type(error).__name__} {error}") from error

    def __call__(self, images: Tensor) -> Tensor:
        """Images [N, 1 or 3, H, W] in [-1, 1] -> [N, 3, h, w] as the model takes them, float32, on their device.

        Values are rounded to 0 to 255 first, as in a saved image. Raises BadInput for other numbers of channels and for
        a crop larger than the resized image.
        """
        if images.ndim != 4 or images.shape[1] not in (GREY, RGB):
            raise BadInput(f"CLIP looks at grey or colour images [N, {GREY} or {RGB}, H, W]; got {[*images.shape]}")
        pixels = self._cropped(self._resized(_rounded((images.float() + 1) * 127.5)))
        scaled = pixels.expand(-1, RGB, -1, -1) * self.scale
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.std))
        return (scaled - mean) / std

    def _resized(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        wanted = self.resize
        if wanted is None:
            return pixels
        if isinstance(wanted, int):
            shorter = min(height, width)
            wanted = wanted * height // shorter, wanted * width // shorter
        for size in ((height, wanted[1]), wanted):
            if size != tuple(pixels.shape[2:]):
                pixels = _rounded(F.interpolate(pixels, size=size, mode=self.mode, antialias=True))
        return pixels

    def _cropped(self, pixels: Tensor) -> Tensor:
        if self.crop is None:
            return pixels
        (height, width), crop = pixels.shape[2:], self.crop
        if crop[0] > height or crop[1] > width:
            raise BadInput(f"images are {height} x {width} after resizing, and {crop[0]} x {crop[1]} are to be cropped")
        top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
        return pixels[:, :, top : top + crop[0], left : left + crop[1]]


def _rounded(pixels: Tensor) -> Tensor:
    return (pixels + 0.5).floor().clamp(0, 255)


def _size(given: Any) -> tuple[int, int] | int:
    """``224`` and ``{"shortest_edge": 224}`` -> the shorter side; ``{"height": 224, "width": 224}`` -> both."""
    if isinstance(given, Mapping) and "shortest_edge" in given:
        return int(given["shortest_edge"])
    return _square(given) if isinstance(given, Mapping) else int(given)


def _square(given: Any) -> tuple[int, int]:
    height, width = (given["height"], given["width"]) if isinstance(given, Mapping) else (given, given)
    return int(height), int(width)
