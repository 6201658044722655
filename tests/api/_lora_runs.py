"""A base model and a LoRA run on it, of three families, for the tests of what is written and read."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import make_squares
from tests.families import _tiny_text

import erasediff
from erasediff import families
from erasediff.data.images import build
from erasediff.families.tiny import TINY

SETTINGS = {"rank": 2, "lora_alpha": 3.0, "learning_rate": 1e-1, "max_train_steps": 3, "train_batch_size": 4}
SETTINGS |= {"checkpointing_steps": 2, "quiet": True}
CAPTIONS = ["a cat", "a dog", "the sea", "a hat"]
INPUTS = {
    "sd": {"x": (2, 4, 8, 8), "text": (2, 16, 32)},
    "unet2d": {"x": (2, 1, 8, 8)},
    "dit": {"x": (2, 2, 4, 4)},
}


def captioned():
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    return build("captioned", images, np.arange(40) % 4, class_names=CAPTIONS)


def inputs(name):
    source = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=source) for key, shape in INPUTS[name].items()}


def asked(denoiser, given):
    t, labels = torch.tensor([3, 60]), torch.tensor([0, 2])
    with torch.no_grad():
        return denoiser(given["x"], t, given.get("text", labels), return_dict=False)[0]


def make(root: Path, *names: str) -> Path:
    """ROOT/NAME/base, ROOT/NAME/run, the inputs and what the run's model says of them."""
    data = {"sd": captioned, "unet2d": make_squares, "dit": make_squares}
    for name in names:
        pipeline = _tiny_text.stable_diffusion() if name == "sd" else TINY[name]().pipeline()
        families.adopt(pipeline).save(root / name / "base")
        target = "class:a cat" if name == "sd" else "class:1"
        run = erasediff.erase(root / name / "base", target, data[name](), output_dir=root / name / "run", **SETTINGS)
        save_file(inputs(name), root / name / "inputs.safetensors")
        save_file({"run": asked(run.model.denoiser, inputs(name))}, root / name / "expected.safetensors")
    return root


def expected(root: Path, name: str) -> torch.Tensor:
    return load_file(root / name / "expected.safetensors")["run"]
