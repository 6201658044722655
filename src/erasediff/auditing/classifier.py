"""The independent judge: a small convolutional classifier trained on labelled images, never by what it audits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import ceil, log2
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from erasediff.auditing.cache import state_fingerprint
from erasediff.data.images import as_floats
from erasediff.errors import BadInput
from erasediff.files import write_atomic, write_json

SMALLEST_SIDE = 8
WEIGHTS_FILE, RECORD_FILE = "classifier.safetensors", "classifier.json"
SCHEMA = 1
BATCH = 256  # images at once when judging

Progress = Callable[[int, int], None]
"""Called after every training step with (steps done, steps in all)."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """All that is needed to build :class:`SmallClassifier` again. Sizes in pixels."""

    channels: int
    height: int
    width: int
    num_classes: int

    @property
    def stem_stride(self) -> int:
        """From 32 pixels on the first convolution halves the image: full resolution would be most of the cost."""
        return 1 if min(self.height, self.width) < 32 else 2

    @property
    def stages(self) -> int:
        """Convolution stages: each halves the image, until the shorter side is at most 4 pixels."""
        return max(1, ceil(log2(min(self.height, self.width) / self.stem_stride / 4)))

    @property
    def feature_width(self) -> int:
        """Width D of the penultimate layer: 64 for images under 16 pixels, else 128."""
        return 64 if min(self.height, self.width) < 16 else 128


class SmallClassifier(nn.Module):
    """Images [B, C, H, W] in [-1, 1] -> logits [B, K], through features [B, D]."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        widths = [min(32 * 2**stage, 128) for stage in range(architecture.stages + 1)]
        layers: list[nn.Module] = [*_convolution(architecture.channels, widths[0], architecture.stem_stride)]
        for before, after in pairwise(widths):
            layers += [*_convolution(before, after), nn.MaxPool2d(2), *_convolution(after, after)]
        # 2 x 2 cells and not one: where a stroke stands tells digits apart
        layers += [nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(widths[-1] * 4, architecture.feature_width)]
        self.features = nn.Sequential(*layers, nn.BatchNorm1d(architecture.feature_width), nn.ReLU())
        self.head = nn.Linear(architecture.feature_width, architecture.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A trained classifier, and how far it can be trusted: its accuracy on ``held_out_n`` images it never saw."""

    module: SmallClassifier
    num_classes: int
    class_names: tuple[str, ...]
    held_out_accuracy: float
    held_out_n: int
    name: str

    def probabilities(self, images: Tensor) -> Tensor:
        """Softmax of the logits, float32 [N, K] on the CPU, for ``images`` [N, C, H, W] in [-1, 1] or uint8."""
        return self._batched(images, lambda batch: self.module(batch).softmax(dim=1), self.num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations, float32 [N, D] on the CPU, for ``images`` [N, C, H, W] in [-1, 1] or uint8."""
        return self._batched(images, self.module.features, self.module.architecture.feature_width)

    @torch.no_grad()
    def _batched(self, images: Tensor, ask: Callable[[Tensor], Tensor], columns: int) -> Tensor:
        images = _as_float(images)
        made_for = self.module.architecture
        expected = (made_for.channels, made_for.height, made_for.width)
        if tuple(images.shape[1:]) != expected:
            raise BadInput(f"{self.name} judges images of shape {expected}; got {tuple(images.shape[1:])}")
        device = next(self.module.parameters()).device
        self.module.eval()
        answers = [ask(batch.to(device)).float().cpu() for batch in images.split(BATCH)]
        return torch.cat(answers) if len(images) else torch.empty(0, columns)

    @property
    def fingerprint(self) -> str:
        """A hash of all that its answers depend on."""
        return state_fingerprint(self.module)

    def save(self, directory: str | Path) -> None:
        """Write classifier.safetensors and classifier.json into ``directory``; each appears whole or not at all."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        weights = tensor_bytes({k: v.detach().cpu().contiguous() for k, v in self.module.state_dict().items()})
        record = {
            "schema": SCHEMA,
            "architecture": asdict(self.module.architecture),
            "class_names": list(self.class_names),
            "held_out_accuracy": self.held_out_accuracy,
            "held_out_n": self.held_out_n,
            "name": self.name,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),  # so that files of two judges are never mixed
        }
        write_atomic(folder / WEIGHTS_FILE, weights)
        write_json(folder / RECORD_FILE, record)

    @classmethod
    def load(cls, directory: str | Path) -> Judge:
        """The inverse of :meth:`save`, on the CPU. Raises BadInput where a file is missing or broken."""
        folder = Path(directory)
        try:
            weights = (folder / WEIGHTS_FILE).read_bytes()
            record: dict[str, Any] = json.loads((folder / RECORD_FILE).read_text())
            if record["schema"] != SCHEMA:
                raise BadInput(f"classifier in {folder} has schema {record['schema']!r}; this version reads {SCHEMA}")
            if record["weights_sha256"] != hashlib.sha256(weights).hexdigest():
                raise BadInput(f"{folder / WEIGHTS_FILE} is damaged, or not the file that {RECORD_FILE} describes")
            module = SmallClassifier(Architecture(**record["architecture"]))
            module.load_state_dict(load_tensors(weights))
            return cls(
                module=module.eval(),
                num_classes=module.architecture.num_classes,
                class_names=tuple(record["class_names"]),
                held_out_accuracy=float(record["held_out_accuracy"]),
                held_out_n=int(record["held_out_n"]),
                name=str(record["name"]),
            )
        except OSError as error:
            raise BadInput(f"no classifier in {folder}: needs {WEIGHTS_FILE} and {RECORD_FILE} ({error})") from error
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise BadInput(f"classifier in {folder} cannot be read: {type(error).__name__}: {error}") from error


def train_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    held_out: tuple[Tensor, Tensor],
    seed: int,
    steps: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    class_names: Sequence[str] | None = None,
    trained_on: str = "the given images",
    progress: Progress | None = None,
) -> Judge:
    """Train the judge on ``images`` [N, C, H, W] (float in [-1, 1], or uint8) and ``labels`` [N] in 0..K-1.

    ``held_out`` holds images and labels that are only measured on. ``steps``: by default 8 passes, at least 600 steps
    and at most 4,000. Trains on the device of ``images``; deterministic for a seed on one machine and thread count; the
    global random state is left alone. Raises BadInput for labels, shapes or values out of range.
    """
    names = tuple(class_names) if class_names is not None else tuple(str(k) for k in range(num_classes))
    if len(names) != num_classes:
        raise BadInput(f"{num_classes} classes need as many names; got {len(names)}")
    images, labels = _checked(images, labels, num_classes, "training")
    test_images, test_labels = _checked(*held_out, num_classes, "held-out")
    module = _untrained(images, num_classes, seed)
    steps = steps or min(max(600, 8 * ceil(len(images) / batch_size)), 4000)
    _fit(module, _batches(images, labels, batch_size, steps, seed), steps, learning_rate, progress)
    untested = Judge(
        module=module.eval(),
        num_classes=num_classes,
        class_names=names,
        held_out_accuracy=0.0,
        held_out_n=len(test_images),
        name=f"small-cnn trained on {trained_on}, seed {seed}",
    )
    right = untested.probabilities(test_images).argmax(dim=1) == test_labels.cpu()
    return replace(untested, held_out_accuracy=float(right.double().mean()))


def _untrained(images: Tensor, num_classes: int, seed: int) -> SmallClassifier:
    _, channels, height, width = images.shape
    architecture = Architecture(channels=channels, height=height, width=width, num_classes=num_classes)
    # the default generator of the CPU alone: torch.manual_seed would reseed every accelerator as well
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return SmallClassifier(architecture).to(images.device)


def _fit(
    module: SmallClassifier,
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    learning_rate: float,
    progress: Progress | None,
) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)
    module.train()
    for step, (images, labels) in enumerate(batches, start=1):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(module(images), labels).backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step, steps)


def _batches(images: Tensor, labels: Tensor, size: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``steps`` augmented batches; every pass over the data is a fresh permutation, joined end to end."""
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(len(images), generator=generator)])
        chosen, waiting = waiting[:size].to(images.device), waiting[size:]
        yield _augment(images[chosen], generator), labels[chosen]


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its size (edges repeated), add noise of up to 0.1, as samplers leave."""
    count, _, height, width = images.shape
    rows = _shifted(count, height, generator).to(images.device)[:, None, :, None]
    columns = _shifted(count, width, generator).to(images.device)[:, None, None, :]
    moved = images[torch.arange(count, device=images.device)[:, None, None, None], _channels(images), rows, columns]
    strength = 0.1 * torch.rand(count, 1, 1, 1, generator=generator)
    noise = strength * torch.randn(images.shape, generator=generator)
    return moved + noise.to(images.device)


def _shifted(count: int, size: int, generator: torch.Generator) -> Tensor:
    reach = size // 8
    shift = torch.randint(-reach, reach + 1, (count, 1), generator=generator)
    return (torch.arange(size) + shift).clamp(0, size - 1)


def _channels(images: Tensor) -> Tensor:
    return torch.arange(images.shape[1], device=images.device)[None, :, None, None]


def _checked(images: Tensor, labels: Tensor, num_classes: int, role: str) -> tuple[Tensor, Tensor]:
    images = _as_float(images)
    if len(images) < 2 or len(images) != len(labels) or min(images.shape[2:]) < SMALLEST_SIDE:
        raise BadInput(
            f"{role} data needs at least 2 images [N, C, H, W] of {SMALLEST_SIDE} pixels or more and a label for each; "
            f"got images {list(images.shape)} and labels {list(labels.shape)}"
        )
    if not images.abs().max() <= 1.001:
        raise BadInput(f"{role} images must lie in [-1, 1] (or be uint8); got {images.min():.3g} to {images.max():.3g}")
    if labels.is_floating_point() or labels.min() < 0 or labels.max() >= num_classes:
        raise BadInput(f"{role} labels must be whole numbers from 0 to {num_classes - 1}")
    return images, labels.long().to(images.device)


def _as_float(images: Tensor) -> Tensor:
    if images.ndim != 4:
        raise BadInput(f"images must have the shape [N, C, H, W]; got {list(images.shape)}")
    return as_floats(images) if images.dtype == torch.uint8 else images.float()
