"""The entry of each family: what it is called, which pipelines it reads, what it can; nothing is imported for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from erasediff.registry import Registry

FAMILIES = Registry(
    "family",
    "erasediff.families",
    {
        "unet2d": "erasediff.families.entries:UNET2D",
        "dit": "erasediff.families.entries:DIT",
        "stable_diffusion": "erasediff.families.entries:STABLE_DIFFUSION",
        "stable_diffusion_xl": "erasediff.families.entries:STABLE_DIFFUSION_XL",
        "stable_diffusion_3": "erasediff.families.entries:STABLE_DIFFUSION_3",
        "flux": "erasediff.families.entries:FLUX",
        "flux_2": "erasediff.families.entries:FLUX_2",
        "pixart": "erasediff.families.entries:PIXART",
        "sana": "erasediff.families.entries:SANA",
        "qwen_image": "erasediff.families.entries:QWEN_IMAGE",
        "z_image": "erasediff.families.entries:Z_IMAGE",
    },
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What ``erasediff list families`` says of a family, and which pipeline classes it reads.

    ``load(directory) -> Model`` and ``adopt(pipeline) -> Model`` import their module only when they are called.
    ``needs``: the optional extras that this takes. ``learning_rate``: what its whole weights are erased at unless told,
    ``class_betas``: with which decays of Adam whole classes are, where that was measured.
    ``load_file(file, configuration)`` reads a single safetensors file, where diffusers can; ``single_file`` writes a
    model to one in the layout in which it was first published.
    """

    name: str
    summary: str
    pipelines: tuple[str, ...]
    targets: tuple[str, ...]
    predictions: tuple[str, ...]
    exports: tuple[str, ...]
    needs: tuple[str, ...] = ()
    learning_rate: float = 1e-5
    class_betas: tuple[float, float] | None = None
    load: Callable[[Path], Any]
    adopt: Callable[[Any], Any]
    load_file: Callable[[Path, Path], Any] | None = None
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
    learning_rate=5e-4,
    class_betas=(0.5, 0.9),
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
    load_file=_later("stable_diffusion", "load_file"),
    single_file=_later("single_file", "write"),
)


STABLE_DIFFUSION_XL = Family(
    name="stable_diffusion_xl",
    summary="UNet2DConditionModel in latent space, asked in words through two encoders (Stable Diffusion XL)",
    pipelines=("StableDiffusionXLPipeline",),
    targets=("class", "samples", "concept"),
    predictions=("epsilon", "v_prediction"),
    exports=("full", "lora", "single_file", "comfyui"),
    needs=("text",),
    load=_later("stable_diffusion_xl", "load"),
    adopt=_later("stable_diffusion_xl", "adopt"),
    load_file=_later("stable_diffusion_xl", "load_file"),
    single_file=_later("single_file_xl", "write"),
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
    load_file=_later("stable_diffusion_3", "load_file"),
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
    load_file=_later("flux", "load_file"),
)


FLUX_2 = Family(
    name="flux_2",
    summary="Flux2Transformer2DModel in normalised patches of latents, asked in words through Qwen 3 (FLUX.2 klein)",
    pipelines=("Flux2KleinPipeline",),
    targets=("class", "samples", "concept"),
    predictions=("flow",),
    exports=("full", "lora"),
    needs=("text",),
    load=_later("flux_2", "load"),
    adopt=_later("flux_2", "adopt"),
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


SANA = Family(
    name="sana",
    summary="SanaTransformer2DModel in deeply compressed latents, asked in words through Gemma 2 (Sana)",
    pipelines=("SanaPipeline",),
    targets=("class", "samples", "concept"),
    predictions=("flow",),
    exports=("full", "lora"),
    needs=("text",),
    load=_later("sana", "load"),
    adopt=_later("sana", "adopt"),
)


QWEN_IMAGE = Family(
    name="qwen_image",
    summary="QwenImageTransformer2DModel in packed latents, asked in words through Qwen2.5-VL (Qwen-Image)",
    pipelines=("QwenImagePipeline",),
    targets=("class", "samples", "concept"),
    predictions=("flow",),
    exports=("full", "lora"),
    needs=("text",),
    load=_later("qwen_image", "load"),
    adopt=_later("qwen_image", "adopt"),
)


Z_IMAGE = Family(
    name="z_image",
    summary="ZImageTransformer2DModel in latent space, asked in words through Qwen 3, distilled or not (Z-Image)",
    pipelines=("ZImagePipeline",),
    targets=("class", "samples", "concept"),
    predictions=("flow",),
    exports=("full", "lora"),
    needs=("text",),
    load=_later("z_image", "load"),
    adopt=_later("z_image", "adopt"),
    load_file=_later("z_image", "load_file"),
)
