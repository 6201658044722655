"""A miniature of CLIP for 16 x 16 images, built in memory and written to a directory: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from tests.families import _tiny_text

SIDE, WIDTH = 16, 8
PREPARED = {
    "crop_size": SIDE,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": SIDE,
}


def config(words) -> CLIPConfig:
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {f"{n}_token_id": getattr(words, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    text = {**layers, **marks, "vocab_size": len(words), "max_position_embeddings": _tiny_text.LENGTH}
    return CLIPConfig(
        text_config=text, vision_config={**layers, "image_size": SIDE, "patch_size": 8}, projection_dim=WIDTH
    )


def saved(place: Path, seed: int = 0, **prepared) -> Path:
    """The directory of a CLIP model of about 10,000 random weights."""
    words = _tiny_text.tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = CLIPModel(config(words))
        for weight in module.parameters():  # as drawn, all images and all texts say almost the same
            torch.nn.init.normal_(weight, std=0.3)
    module.save_pretrained(place)
    words.save_pretrained(place)
    (place / "preprocessor_config.json").write_text(json.dumps({**PREPARED, **prepared}))
    return place
