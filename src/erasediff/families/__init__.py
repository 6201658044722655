"""Model families: how each kind of diffusion model is loaded, noised, asked and saved."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from erasediff.errors import BadInput, listing
from erasediff.files import read_json
from erasediff.registry import Registry

FAMILIES = Registry(
    "family",
    "erasediff.families",
    {
        "unet2d": "erasediff.families:UNET2D",
        "dit": "erasediff.families:DIT",
        "stable_diffusion": "erasediff.families:STABLE_DIFFUSION",
        "stable_diffusion_xl": "erasediff.families:STABLE_DIFFUSION_XL",
        "stable_diffusion_3": "erasediff.families:STABLE_DIFFUSION_3",
        "flux": "erasediff.families:FLUX",
        "pixart": "erasediff.families:PIXART",
    },
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What ``erasediff list families`` says of a family, and which pipeline classes it reads.

    ``load(directory) -> Model`` and ``adopt(pipeline) -> Model`` import their module only when they are called.
    ``needs``: the optional extras that this takes.
    """

    name: str
    summary: str
    pipelines: tuple[str, ...]
    targets: tuple[str, ...]
    predictions: tuple[str, ...]
    exports: tuple[str, ...]
    needs: tuple[str, ...] = ()
    load: Callable[[Path], Any]
    adopt: Callable[[Any], Any]


def _later(module: str, verb: str) -> Callable[[Any], Any]:
    """A function of ``erasediff.families.<module>`` that imports it, and with it diffusers, only when it is called."""

    def call(given: Any) -> Any:
        return getattr(import_module(f"erasediff.families.{module}"), verb)(given)

    return call


UNET2D = Family(
    name="unet2d",
    summary="UNet2DModel in pixel space, class-conditional or unconditional (DDPM)",
    pipelines=("DDPMPipeline", "DDIMPipeline", "ClassConditionalDDPMPipeline"),
    targets=("class", "samples"),
    predictions=("epsilon", "v_prediction", "sample"),
    exports=("full",),
    load=_later("unet2d", "load"),
    adopt=_later("unet2d", "adopt"),
)


DIT = Family(
    name="dit",
    summary="DiTTransformer2DModel in latent space, class-conditional (DiT)",
    pipelines=("DiTPipeline",),
    targets=("class", "samples"),
    predictions=("epsilon",),
    exports=("full",),
    load=_later("dit", "load"),
    adopt=_later("dit", "adopt"),
)


STABLE_DIFFUSION = Family(
    name="stable_diffusion",
    summary="UNet2DConditionModel in latent space, asked in words (Stable Diffusion 1.x and 2.x)",
    pipelines=("StableDiffusionPipeline",),
    targets=("class", "samples", "concept"),
    predictions=("epsilon", "v_prediction"),
    exports=("full",),
    needs=("text",),
    load=_later("stable_diffusion", "load"),
    adopt=_later("stable_diffusion", "adopt"),
)


STABLE_DIFFUSION_XL = Family(
    name="stable_diffusion_xl",
    summary="UNet2DConditionModel in latent space, asked in words through two encoders (Stable Diffusion XL)",
    pipelines=("StableDiffusionXLPipeline",),
    targets=("class", "samples", "concept"),
    predictions=("epsilon", "v_prediction"),
    exports=("full",),
    needs=("text",),
    load=_later("stable_diffusion_xl", "load"),
    adopt=_later("stable_diffusion_xl", "adopt"),
)


STABLE_DIFFUSION_3 = Family(
    name="stable_diffusion_3",
    summary="SD3Transformer2DModel in latent space, asked in words (Stable Diffusion 3 and 3.5)",
    pipelines=("StableDiffusion3Pipeline",),
    targets=("class", "samples", "concept"),
    predictions=("flow",),
    exports=("full",),
    needs=("text",),
    load=_later("stable_diffusion_3", "load"),
    adopt=_later("stable_diffusion_3", "adopt"),
)


FLUX = Family(
    name="flux",
    summary="FluxTransformer2DModel in packed latents, asked in words, guidance-distilled or not (FLUX.1)",
    pipelines=("FluxPipeline",),
    targets=("class", "samples", "concept"),
    predictions=("flow",),
    exports=("full",),
    needs=("text",),
    load=_later("flux", "load"),
    adopt=_later("flux", "adopt"),
)


PIXART = Family(
    name="pixart",
    summary="PixArtTransformer2DModel in latent space, asked in words through T5 (PixArt alpha and sigma)",
    pipelines=("PixArtSigmaPipeline", "PixArtAlphaPipeline"),
    targets=("class", "samples", "concept"),
    predictions=("epsilon",),
    exports=("full",),
    needs=("text",),
    load=_later("pixart", "load"),
    adopt=_later("pixart", "adopt"),
)


FETCHED = ["*.json", "*/*.safetensors", "*/merges.txt", "*/spiece.model"]
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def _snapshot(hub_id: str) -> Path:
    """Fetch configuration and the parts' safetensors (no code, no pickles) of a Hub id into the Hub's own cache.

    Weights beside the folders are the whole model once more, in one file for other programs.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    name, _, revision = hub_id.partition("@")
    try:
        found = snapshot_download(name, revision=revision or None, allow_patterns=FETCHED)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"model {hub_id!r} is no path here, and cannot be had from the Hub: {reason}") from error
    return Path(found)


def locate(source: str | Path) -> Path:
    """The pipeline directory behind a MODEL argument: itself, ``model/`` of a run directory, or a Hub id's snapshot.

    A Hub id is ``owner/name`` or ``owner/name@revision``; a path of that form that exists is the path.
    Raises BadInput for what does not exist or holds no pipeline.
    """
    path = Path(source)
    if not path.exists() and HUB_ID.fullmatch(str(source)):
        path = _snapshot(str(source))
    if path.is_file():
        raise BadInput(
            f"{path} is a single file; give a pipeline directory, as from_single_file(...).save_pretrained(DIR) of the "
            "model's pipeline class in diffusers writes it"
        )
    if not path.exists():
        raise BadInput(
            f"model {str(source)!r} does not exist; give a diffusers pipeline directory, a run directory or a Hub id"
        )
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
