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
    ``needs``: the optional extras that this takes. ``learning_rate``: what its whole weights are erased at unless told.
    ``single_file`` writes a model to one file in the layout in which it was first published.
    """

    name: str
    summary: str
    pipelines: tuple[str, ...]
    targets: tuple[str, ...]
    predictions: tuple[str, ...]
    exports: tuple[str, ...]
    needs: tuple[str, ...] = ()
    learning_rate: float = 1e-5
    load: Callable[[Path], Any]
    adopt: Callable[[Any], Any]
    single_file: Callable[..., None] | None = None


def _later(module: str, verb: str) -> Callable[..., Any]:
    """A function of ``erasediff.families.<module>`` that imports it, and with it diffusers, only when it is called."""

    def call(*given: Any) -> Any:
        return getattr(import_module(f"erasediff.families.{module}"), verb)(*given)

    return call


UNET2D = Family(
    name="unet2d",
    summary="UNet2DModel in pixel space, class-conditional or unconditional (DDPM)",
    pipelines=("DDPMPipeline", "DDIMPipeline", "ClassConditionalDDPMPipeline"),
    targets=("class", "samples"),
    predictions=("epsilon", "v_prediction", "sample"),
    exports=("full", "lora"),
    learning_rate=1e-3,
    load=_later("unet2d", "load"),
    adopt=_later("unet2d", "adopt"),
)


DIT = Family(
    name="dit",
    summary="DiTTransformer2DModel in latent space, class-conditional (DiT)",
    pipelines=("DiTPipeline",),
    targets=("class", "samples"),
    predictions=("epsilon",),
    exports=("full", "lora"),
    learning_rate=1e-4,
    load=_later("dit", "load"),
    adopt=_later("dit", "adopt"),
)


STABLE_DIFFUSION = Family(
    name="stable_diffusion",
    summary="UNet2DConditionModel in latent space, asked in words (Stable Diffusion 1.x and 2.x)",
    pipelines=("StableDiffusionPipeline",),
    targets=("class", "samples", "concept"),
    predictions=("epsilon", "v_prediction"),
    exports=("full", "lora", "single_file", "comfyui"),
    needs=("text",),
    load=_later("stable_diffusion", "load"),
    adopt=_later("stable_diffusion", "adopt"),
    single_file=_later("single_file", "write"),
)


STABLE_DIFFUSION_XL = Family(
    name="stable_diffusion_xl",
    summary="UNet2DConditionModel in latent space, asked in words through two encoders (Stable Diffusion XL)",
    pipelines=("StableDiffusionXLPipeline",),
    targets=("class", "samples", "concept"),
    predictions=("epsilon", "v_prediction"),
    exports=("full", "lora", "comfyui"),
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
    exports=("full", "lora", "comfyui"),
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
    exports=("full", "lora", "comfyui"),
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
    exports=("full", "lora"),
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


INDEX = "model_index.json"
PICKLES = ("ckpt", "bin", "pt", "pth", "pkl")


def _refuse_file(path: Path) -> BadInput:
    """The refusal of a single file, with the command that makes a directory of it."""
    command = (
        f"python -c \"from diffusers import StableDiffusionPipeline as P; P.from_single_file('{path}')"
        ".save_pretrained('model')\""
    )
    if path.suffix.lstrip(".").lower() in PICKLES:
        return BadInput(
            f"{path} is a pickle, which can run code when it is read, and is never read here; if you trust where it "
            f"comes from, convert it where that may happen: {command}"
        )
    return BadInput(
        f"{path} is a single file, which does not say how its model is built; make a pipeline directory of it "
        f"(diffusers fetches the configuration from the Hub, or takes config=DIR): {command}"
    )


def locate(source: str | Path) -> Path:
    """What holds the weights behind a MODEL argument: a pipeline directory, or the ``lora/`` of a run.

    That is the argument itself, ``model/`` or ``lora/`` of a run directory, or a Hub id's snapshot. A Hub id is
    ``owner/name`` or ``owner/name@revision``; a path of that form that exists is the path.
    Raises BadInput for what does not exist or holds no pipeline.
    """
    from erasediff.families.lora import holds_lora

    path = Path(source)
    if not path.exists() and HUB_ID.fullmatch(str(source)):
        path = _snapshot(str(source))
    if path.is_file():
        raise _refuse_file(path)
    if not path.exists():
        raise BadInput(
            f"model {str(source)!r} does not exist; give a diffusers pipeline directory, a run directory or a Hub id"
        )
    for candidate in (path, path / "model"):
        if (candidate / INDEX).is_file():
            return candidate
    for candidate in (path, path / "lora"):
        if holds_lora(candidate):
            return candidate
    raise BadInput(f"{path} is no diffusers pipeline (no model_index.json) and no run directory (no model/, no lora/)")


def family_of(directory: Path) -> Family:
    """The family that reads this directory: by the ``_class_name`` of its model_index.json, or of a LoRA's base."""
    from erasediff.families import adapted

    if not (directory / INDEX).is_file():
        return family_of(adapted.base_of(directory))
    index = read_json(directory / INDEX)
    name = index.get("_class_name") if isinstance(index, dict) else None
    name = name[-1] if isinstance(name, list) else name
    known = {p: family for family in FAMILIES.values() for p in family.pipelines}
    if name not in known:
        raise BadInput(f"{directory} is a {name} pipeline, which no family reads; read are: {listing(sorted(known))}")
    return known[name]


def load(source: str | Path) -> Any:
    """Load the model behind a MODEL argument, a LoRA merged into its base. Code found in it is never executed."""
    from erasediff.families import adapted

    directory = locate(source)
    return family_of(directory).load(directory) if (directory / INDEX).is_file() else adapted.load(directory)


def adopt(pipeline: Any) -> Any:
    """Adapt a copy of a diffusers pipeline object; the one given is left alone. Raises BadInput for other things."""
    known = {p: family for family in FAMILIES.values() for p in family.pipelines}
    name = type(pipeline).__name__
    if name not in known:
        raise BadInput(f"a {name} is no pipeline that a family reads; read are: {listing(sorted(known))}, or a path")
    for part, module in pipeline.components.items():
        if any(".base_layer." in key for key, _ in getattr(module, "named_parameters", dict)()):
            raise BadInput(
                f"a LoRA is attached to {part} of the pipeline; call fuse_lora() and then unload_lora_weights() first, "
                "or peft's merge_and_unload()"
            )
    return known[name].adopt(pipeline)
