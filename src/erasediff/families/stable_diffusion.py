"""Stable Diffusion 1.x and 2.x: a UNet over a VAE's latents, asked in words; the words of a job are its classes."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from erasediff.errors import BadInput
from erasediff.families.base import ClassConditions, Condition
from erasediff.families.latents import Latents, first_line
from erasediff.families.noising import Noising
from erasediff.families.prompts import NULL, PromptTable
from erasediff.families.text_reader import OneEncoder
from erasediff.files import read_json, staged_directory, write_json

try:
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging as transformers_logging
except ImportError as missing:
    raise BadInput(
        'Stable Diffusion needs transformers, which is not installed; pip install "erasediff[text]"'
    ) from missing

import diffusers
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel

# The parts that have weights: which class reads each, and the stem of its weights' file.
WEIGHTED: dict[str, tuple[Any, str]] = {
    "unet": (UNet2DConditionModel, "diffusion_pytorch_model"),
    "vae": (AutoencoderKL, "diffusion_pytorch_model"),
    "text_encoder": (CLIPTextModel, "model"),
}
# Folders that are neither trained nor asked here; a model that was read with them is saved with them.
BESIDE = ("safety_checker", "feature_extractor", "image_encoder")
WHOLE, HALF = (".safetensors", ".safetensors.index.json"), (".fp16.safetensors",)


@dataclass
class StableDiffusion:
    """A UNet2DConditionModel with its frozen VAE and text encoder; see :class:`erasediff.families.base.Model`.

    The classes are the prompts of ``table``: label c is prompt c, and the last row, the empty prompt, is the null
    condition. As read, the model knows the empty prompt only and counts as unconditional; see :meth:`with_prompts`.
    """

    denoiser: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: Any
    noising: Noising
    table: PromptTable
    conditions: ClassConditions
    # What a pipeline may carry besides: as objects (adopted), or as folders with their entries in model_index.json.
    beside: dict[str, Any] = field(default_factory=dict)
    folders: dict[str, tuple[Path, Any]] = field(default_factory=dict)
    family: str = "stable_diffusion"

    @classmethod
    def wrap(cls, pipeline: StableDiffusionPipeline) -> StableDiffusion:
        """Adapt a pipeline; its UNet is trained in place, VAE and text encoder are shared but never changed."""
        _check_fit(pipeline)
        made = cls(
            denoiser=pipeline.unet,
            vae=_frozen(pipeline.vae),
            text_encoder=_frozen(pipeline.text_encoder),
            tokenizer=pipeline.tokenizer,
            scheduler=copy.deepcopy(pipeline.scheduler),
            noising=Noising.of(pipeline.scheduler),
            table=PromptTable((), {}),
            conditions=ClassConditions(0, None),
            beside={name: getattr(pipeline, name) for name in BESIDE if getattr(pipeline, name, None) is not None},
        )
        return made.with_prompts(())

    def with_prompts(self, prompts: Sequence[str], *, anchor: str | None = None) -> StableDiffusion:
        """A model over the same weights whose classes are ``prompts``; repeated ones count once.

        ``anchor``: a prompt whose label the conditions know besides. Raises BadInput for a prompt that the tokenizer
        would cut.
        """
        pipeline, classes = self.pipeline(), [p for p in dict.fromkeys(prompts) if p != NULL]
        wanted = list(dict.fromkeys([*classes, *([anchor] if anchor else [])]))
        # One by one: what is said of a prompt does not depend on the others in the table, to the last bit.
        embeddings = torch.cat([_embedded(pipeline, prompt) for prompt in (*wanted, NULL)])
        table = PromptTable((*wanted, NULL), {"encoder_hidden_states": embeddings})
        place = None if anchor is None else table.index(anchor)
        return replace(self, table=table, conditions=ClassConditions(len(classes), table.index(NULL), anchor=place))

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.table.prompts[: self.conditions.num_classes]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        size = self.denoiser.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.in_channels, height * factor, width * factor

    def encode(self, images: Tensor) -> Tensor:
        return Latents(self.vae).encode(images)

    def decode(self, x_0: Tensor) -> Tensor:
        return Latents(self.vae).decode(x_0)

    def ask(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if condition is None:
            condition = torch.full((x_t.shape[0],), self.table.index(NULL), device=x_t.device)
        dtype = getattr(denoiser, "dtype", x_t.dtype)
        text = {name: rows.to(dtype) for name, rows in self.table.rows(condition).items()}
        return denoiser(x_t.to(dtype), t, **text, return_dict=False)[0]

    def class_tables(self, denoiser: nn.Module) -> list[nn.Embedding]:  # noqa: ARG002
        return []

    def reader(self) -> OneEncoder:
        return OneEncoder(self)

    def sampler(self, num_inference_steps: int) -> DPMSolverMultistepScheduler:
        # Latents have no range to be clipped to; and the solver must be an ODE's, so that the noise tells the image.
        solver = {"thresholding": False, "algorithm_type": "dpmsolver++"}
        sampler = DPMSolverMultistepScheduler.from_config(self.scheduler.config, **solver)
        sampler.set_timesteps(num_inference_steps)
        return sampler

    def pipeline(self) -> StableDiffusionPipeline:
        """A pipeline over the same weights, all where the denoiser is, with a scheduler of its own."""
        device = self.denoiser.device
        return StableDiffusionPipeline(
            unet=self.denoiser,
            vae=self.vae.to(device),
            text_encoder=self.text_encoder.to(device),
            tokenizer=self.tokenizer,
            scheduler=copy.deepcopy(self.scheduler),
            requires_safety_checker="safety_checker" in self.beside,
            **{**dict.fromkeys(BESIDE), **self.beside},
        )

    def save(self, directory: Path) -> None:
        """Write a StableDiffusionPipeline directory; it appears whole or not at all. The table is not part of it."""
        with staged_directory(directory) as staging, _no_bars():
            self.denoiser.to(memory_format=torch.contiguous_format)  # safetensors stores contiguous tensors only
            self.pipeline().save_pretrained(staging)
            _copy_folders(self.folders, staging)

    def __deepcopy__(self, memo: dict[int, Any]) -> StableDiffusion:
        """A copy with a UNet of its own; what is frozen is shared."""
        memo[id(self)] = made = replace(self, denoiser=copy.deepcopy(self.denoiser, memo))
        return made


def load(directory: Path) -> StableDiffusion:
    """Read a StableDiffusionPipeline directory. Weights must be safetensors; code in the directory is never run."""
    index = read_json(directory / "model_index.json")
    _check_complete(directory)
    try:
        with _no_bars():
            parts = {name: _weighted(directory, index, name) for name in WEIGHTED}
            parts["tokenizer"] = CLIPTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
            parts["scheduler"] = _scheduler(directory, index)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise BadInput(f"{directory} cannot be read as a Stable Diffusion pipeline: {first_line(error)}") from error
    parts |= dict.fromkeys(BESIDE)
    made = StableDiffusion.wrap(StableDiffusionPipeline(**parts, requires_safety_checker=False))
    made.folders = {name: (directory / name, index[name]) for name in BESIDE if _class_of(index, name) != "None"}
    return made


def adopt(pipeline: StableDiffusionPipeline) -> StableDiffusion:
    """Adapt a loaded pipeline: a copy of its UNet; VAE and text encoder are shared where they are in float32."""
    for part in (pipeline.unet, pipeline.text_encoder):
        if any(".base_layer." in name for name, _ in part.named_parameters()):
            raise BadInput("a LoRA is attached to the pipeline; call fuse_lora() and then unload_lora_weights() first")
    made = StableDiffusion.wrap(pipeline)
    made.denoiser = copy.deepcopy(pipeline.unet).float().eval()
    return made


def _frozen(module: nn.Module) -> Any:
    """``module`` in float32, without gradients and in eval mode, over the same memory; the one given stays as it is."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    return copy.deepcopy(module, memo).float().eval()


@torch.no_grad()
def _embedded(pipeline: StableDiffusionPipeline, prompt: str) -> Tensor:
    """What the text encoder says of a prompt [1, L, D]. Raises BadInput for one that the tokenizer would cut."""
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    said = pipeline.maybe_convert_prompt(prompt, tokenizer)
    length, limit = len(tokenizer(said, verbose=False).input_ids), tokenizer.model_max_length
    if length > limit:
        raise BadInput(f"prompt {prompt!r} has {length} tokens with start and end, the model reads {limit}; shorten it")
    return pipeline.encode_prompt(prompt, encoder.device, 1, False)[0]


def _check_fit(pipeline: StableDiffusionPipeline) -> None:
    """Raise BadInput unless the parts take what the others give."""
    unet, text, latent = pipeline.unet.config, pipeline.text_encoder.config, pipeline.vae.config.latent_channels
    if not hasattr(pipeline.scheduler, "alphas_cumprod"):
        name = type(pipeline.scheduler).__name__
        raise BadInput(f"scheduler {name} has no alphas_cumprod; use a DDIM, DDPM, PNDM or Euler scheduler")
    if (unet.in_channels, unet.out_channels) != (latent, latent):
        raise BadInput(
            f"the UNet takes {unet.in_channels} channels and gives {unet.out_channels}, the VAE's latents have "
            f"{latent}; read are text-to-image models, where all three are equal (no inpainting, no image editing)"
        )
    if unet.cross_attention_dim != text.hidden_size:
        raise BadInput(f"the UNet takes text {unet.cross_attention_dim} wide, the text encoder's is {text.hidden_size}")
    length, vocabulary = pipeline.tokenizer.model_max_length, len(pipeline.tokenizer)
    limits = [("length", length, text.max_position_embeddings), ("vocabulary", vocabulary, text.vocab_size)]
    for what, given, taken in limits:
        if given > taken:
            raise BadInput(f"the tokenizer's {what} is {given} tokens, but the text encoder takes {taken} at most")


def _check_complete(directory: Path) -> None:
    """Raise BadInput unless all files are there that are read; each may go by several names."""
    needed: list[tuple[str, ...]] = [("scheduler/scheduler_config.json",)]
    # Without its files transformers makes an empty tokenizer, to which all prompts are alike.
    needed += [(f"tokenizer/{name}", "tokenizer/tokenizer.json") for name in ("vocab.json", "merges.txt")]
    for part, (_, stem) in WEIGHTED.items():
        needed += [(f"{part}/config.json",), tuple(f"{part}/{stem}{ending}" for ending in WHOLE + HALF)]
    for names in needed:
        if not any((directory / name).is_file() for name in names):
            raise BadInput(f"{directory} is not a complete Stable Diffusion pipeline: {names[0]} is missing")


def _weighted(directory: Path, index: dict[str, Any], part: str) -> Any:
    """One part with weights, whole and in float32: those of variant fp16 where there are no others."""
    (kind, stem), folder = WEIGHTED[part], directory / part
    if _class_of(index, part) != kind.__name__:
        raise BadInput(f"{part} of {directory} is a {_class_of(index, part)}; this family reads a {kind.__name__}")
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    whole = any((folder / (stem + ending)).is_file() for ending in WHOLE)
    module, info = kind.from_pretrained(folder, variant=None if whole else "fp16", **options)
    # Both libraries draw at random what a file lacks, and only log it.
    absent = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if absent:
        raise BadInput(f"{folder} lacks {len(absent)} weights of a {kind.__name__}, first {absent[0]}")
    broken = [n for n, p in module.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        raise BadInput(f"{folder} holds weights that are not finite (NaN or infinity), first in {broken[0]}")
    return module.float().eval()


def _scheduler(directory: Path, index: dict[str, Any]) -> Any:
    name = _class_of(index, "scheduler")
    kind: Any = getattr(diffusers, name, None)
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not known:
        raise BadInput(f"scheduler {name} of {directory} is none of diffusers'; name one of those in model_index.json")
    return kind.from_pretrained(directory / "scheduler", local_files_only=True)


def _class_of(index: dict[str, Any], part: str) -> str:
    entry = index.get(part)
    return str(entry[1]) if isinstance(entry, list) and len(entry) == 2 else "None"


def _copy_folders(folders: dict[str, tuple[Path, Any]], target: Path) -> None:
    """Copy what was not read but belongs to the pipeline into ``target``, and enter it in the index there."""
    index = read_json(target / "model_index.json")
    for name, (source, entry) in folders.items():
        files = sorted(f for f in source.glob("*") if f.suffix in (".json", ".txt", ".safetensors"))
        if not any(f.suffix == ".safetensors" or f.name == "preprocessor_config.json" for f in files):
            warnings.warn(f"{source} holds no safetensors; {name} is left out of what is saved", stacklevel=4)
            continue
        (target / name).mkdir()
        for file in files:  # in this order whole weights replace those of variant fp16
            shutil.copyfile(file, target / name / file.name.replace(".fp16", ""))
        index[name] = entry
        index["requires_safety_checker"] |= name == "safety_checker"
    write_json(target / "model_index.json", index)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers from drawing progress bars into the output."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
