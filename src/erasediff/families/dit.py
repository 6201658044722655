"""Class-conditional transformers in latent space: DiT (Peebles and Xie 2023, arXiv:2212.09748) as diffusers has it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel, DPMSolverMultistepScheduler
from diffusers.schedulers import KarrasDiffusionSchedulers
from torch import Tensor, nn

from erasediff.errors import BadInput
from erasediff.families.base import ClassConditions, Condition
from erasediff.families.latents import Latents
from erasediff.families.noising import Noising
from erasediff.families.reading import read_index, read_part, read_scheduler
from erasediff.families.samplers import ode_solver
from erasediff.files import staged_directory

SCHEDULERS = tuple(s.name for s in KarrasDiffusionSchedulers)


@dataclass
class DiT:
    """A DiTTransformer2DModel, the VAE it works in and its scheduler; see :class:`erasediff.families.base.Model`.

    ``labels`` is the ``id2label`` of model_index.json: by class number, comma-separated names, the first of which is
    the class's name here. Where the transformer learns the variance as well (twice as many channels out as in), only
    the noise is asked and trained: diffusers' pipeline uses nothing else. Its guidance takes 1000 for the null label,
    as ImageNet has it; models of fewer classes it draws from without guidance only, while this library guides any.
    """

    denoiser: DiTTransformer2DModel
    latents: Latents
    scheduler: Any
    conditions: ClassConditions
    class_names: tuple[str, ...]
    noising: Noising
    labels: dict[int, str]
    family: str = "dit"

    @classmethod
    def wrap(
        cls, transformer: DiTTransformer2DModel, vae: AutoencoderKL, scheduler: Any, labels: Mapping[int, str]
    ) -> DiT:
        """Adapt a transformer, its VAE and a scheduler with ``alphas_cumprod``; none of them is copied."""
        noising = Noising.of(scheduler)
        given, taken = transformer.config.in_channels, vae.config.latent_channels
        if given != taken:
            raise BadInput(f"the transformer takes {given} channels, the VAE's latents have {taken}; they must agree")
        if transformer.out_channels not in (given, 2 * given):
            raise BadInput(
                f"the transformer takes {given} channels and returns {transformer.out_channels}; "
                f"needed are {given} (noise) or {2 * given} (noise and variance)"
            )
        # In training mode the module would swap labels for the null label at random; who is asked about is for the
        # methods to say. The probability is no part of the configuration: saved and reloaded, it is what it was.
        for embedder in _embedders(transformer):
            embedder.dropout_prob = 0.0
        first = _embedders(transformer)[0]
        num_classes = first.num_classes
        null = num_classes if first.embedding_table.num_embeddings > num_classes else None
        names = tuple(labels[c].split(",")[0].strip() if c in labels else str(c) for c in range(num_classes))
        conditions = ClassConditions(num_classes, null)
        return cls(transformer, Latents.of(vae), scheduler, conditions, names, noising, dict(labels))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.latents.image_shape(self.denoiser.config.sample_size)

    def encode(self, images: Tensor) -> Tensor:
        return self.latents.encode(images)

    def decode(self, x_0: Tensor) -> Tensor:
        return self.latents.decode(x_0)

    def ask(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return denoiser(x_t, t, condition, return_dict=False)[0][:, : x_t.shape[1]]

    def class_tables(self, denoiser: nn.Module) -> list[nn.Embedding]:
        return [embedder.embedding_table for embedder in _embedders(denoiser)]

    def sampler(self, num_inference_steps: int) -> DPMSolverMultistepScheduler:
        return ode_solver(self.scheduler, num_inference_steps)

    def pipeline(self) -> DiTPipeline:
        """A pipeline over the same weights, all where the denoiser is."""
        self.latents.vae.to(self.denoiser.device)
        return self.resting()

    def resting(self) -> DiTPipeline:
        """The same pipeline with every part where it is: enough to be written."""
        labels, vae = self.labels or None, self.latents.vae
        pipeline = DiTPipeline(transformer=self.denoiser, vae=vae, scheduler=self.scheduler, id2label=labels)
        if labels:
            # Else diffusers leaves them out of the model_index.json that it writes.
            pipeline.register_to_config(id2label=labels)
        return pipeline

    def save(self, directory: Path) -> None:
        """Write transformer/, vae/, scheduler/ and model_index.json; the directory appears whole or not at all."""
        with staged_directory(directory) as staging:
            for module in (self.denoiser, self.latents.vae):
                module.to(memory_format=torch.contiguous_format)  # safetensors stores contiguous tensors only
            self.resting().save_pretrained(staging)


def load(directory: Path) -> DiT:
    """Read a DiTPipeline directory. Weights must be safetensors; code in the directory is never run."""
    scheduler = read_scheduler(directory, allowed=SCHEDULERS)
    found = read_index(directory).get("id2label")
    try:
        labels = {int(number): str(names) for number, names in (found or {}).items()}
    except (AttributeError, ValueError) as error:
        raise BadInput(f"id2label in {directory / 'model_index.json'} must be names by class number") from error
    # Older directories, DiT-XL/2 itself among them, call this transformer by a name that it shared with others.
    transformer = read_part(directory, "transformer", DiTTransformer2DModel, also=("Transformer2DModel",))
    vae = read_part(directory, "vae", AutoencoderKL)
    return DiT.wrap(transformer, vae, scheduler, labels)


def adopt(pipeline: Any) -> DiT:
    """Adapt a copy of a loaded DiTPipeline. What it no longer knows, the order of a class's names, is alphabetical."""
    transformer, vae = (copy.deepcopy(part).float() for part in (pipeline.transformer, pipeline.vae))
    known = pipeline.config.get("id2label")
    labels = {int(number): names for number, names in (known or {}).items()}
    if not labels:
        for name, number in pipeline.labels.items():
            labels[number] = f"{labels[number]}, {name}" if number in labels else name
    return DiT.wrap(transformer.eval(), vae, pipeline.scheduler, labels)


def _embedders(denoiser: nn.Module) -> list[Any]:
    """Where ``denoiser`` looks classes up: every block has a table of its own."""
    return [module for name, module in denoiser.named_modules() if name.endswith("norm1.emb.class_embedder")]
