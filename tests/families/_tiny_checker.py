"""A miniature of Stable Diffusion's safety checker, built in memory, that flags what it is told to."""

from __future__ import annotations

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIDE = 16


def feature_extractor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def checker(seed: int = 0) -> StableDiffusionSafetyChecker:
    """It flags nothing; see :func:`wary_of`."""
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": 9}
    config = CLIPConfig(
        text_config={**layers, **marks}, vision_config={**layers, "image_size": SIDE, "patch_size": 8}, projection_dim=8
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        made = StableDiffusionSafetyChecker(config).eval()
        for name, weight in made.named_parameters():
            weight.normal_() if "embeds" not in name else weight.fill_(2.0)
    return made


@torch.no_grad()
def wary_of(made: StableDiffusionSafetyChecker, shown: torch.Tensor) -> StableDiffusionSafetyChecker:
    """Its seventh concept becomes the image that is ``shown`` [1, 3, 16, 16] (as it takes them), and it alone."""
    seen = made.visual_projection(made.vision_model(shown)[1])
    made.concept_embeds[6] = seen[0]
    made.concept_embeds_weights[6] = 0.99
    return made
