"""Model families: how each kind of diffusion model is loaded, noised, asked and saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erasediff.errors import BadInput, listing
from erasediff.files import read_json
from erasediff.registry import Registry

FAMILIES = Registry("family", "erasediff.families", {"unet2d": "erasediff.families:UNET2D"})


@dataclass(frozen=True, kw_only=True)
class Family:
    """What ``erasediff list families`` says of a family, and which pipeline classes it reads.

    ``module`` is imported only when a model of the family is loaded; it has ``load(directory) -> Model``.
    """

    name: str
    summary: str
    pipelines: tuple[str, ...]
    targets: tuple[str, ...]
    predictions: tuple[str, ...]
    exports: tuple[str, ...]
    load: Callable[[Path], Any]
    adopt: Callable[[Any], Any]


def _load_unet2d(directory: Path) -> Any:
    from erasediff.families.unet2d import load as load_unet2d

    return load_unet2d(directory)


def _adopt_unet2d(pipeline: Any) -> Any:
    from erasediff.families.unet2d import adopt as adopt_unet2d

    return adopt_unet2d(pipeline)


UNET2D = Family(
    name="unet2d",
    summary="UNet2DModel in pixel space, class-conditional or unconditional (DDPM)",
    pipelines=("DDPMPipeline", "DDIMPipeline", "ClassConditionalDDPMPipeline"),
    targets=("class", "samples"),
    predictions=("epsilon", "v_prediction", "sample"),
    exports=("full",),
    load=_load_unet2d,
    adopt=_adopt_unet2d,
)


def locate(source: str | Path) -> Path:
    """The pipeline directory behind a MODEL argument: itself, or ``model/`` of a run directory.

    Raises BadInput for a path that does not exist or holds no pipeline.
    """
    path = Path(source)
    if path.is_file():
        raise BadInput(f"{path} is a single file; family unet2d needs a pipeline directory with its configuration")
    if not path.exists():
        raise BadInput(f"model {str(source)!r} does not exist; give a diffusers pipeline directory or a run directory")
    for candidate in (path, path / "model"):
        if (candidate / "model_index.json").is_file():
            return candidate
    raise BadInput(f"{path} is no diffusers pipeline (no model_index.json) and no run directory (no model/)")


def family_of(directory: Path) -> Family:
    """The family that reads this pipeline directory, by the ``_class_name`` of its model_index.json."""
    index = read_json(directory / "model_index.json")
    name = index.get("_class_name") if isinstance(index, dict) else None
    name = name[-1] if isinstance(name, list) else name
    known = {p: family for family in FAMILIES.values() for p in family.pipelines}
    if name not in known:
        raise BadInput(f"{directory} is a {name} pipeline, which no family reads; read are: {listing(sorted(known))}")
    return known[name]


def load(source: str | Path) -> Any:
    """Load the model behind a MODEL argument. Code found in a model directory is never executed."""
    directory = locate(source)
    return family_of(directory).load(directory)


def adopt(pipeline: Any) -> Any:
    """Adapt a copy of a diffusers pipeline object; the one given is left alone. Raises BadInput for other things."""
    known = {p: family for family in FAMILIES.values() for p in family.pipelines}
    name = type(pipeline).__name__
    if name not in known:
        raise BadInput(f"a {name} is no pipeline that a family reads; read are: {listing(sorted(known))}, or a path")
    return known[name].adopt(pipeline)
