"""The judge: good enough to judge, the same for the same seed, and the same again from its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from erasediff.auditing.classifier import Architecture, Judge, SmallClassifier, train_classifier
from erasediff.auditing.features import extractor
from erasediff.errors import BadInput


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.images, dtype=torch.float32)[order, None] / 8 - 1, torch.tensor(data.target)[order]


def train(digits: tuple[Tensor, Tensor], **options: object) -> Judge:
    images, labels = digits
    held_out = (images[1437:], labels[1437:])
    settings = {"num_classes": 10, "held_out": held_out, "seed": 0, "steps": 8, **options}
    return train_classifier(images[:1437], labels[:1437], **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def judge(digits: tuple[Tensor, Tensor]) -> Judge:
    return train(digits, steps=200, trained_on="digits")


def test_the_judge_is_good_on_digits_it_never_saw(judge: Judge, digits: tuple[Tensor, Tensor]) -> None:
    assert judge.held_out_accuracy >= 0.975  # a third of the default budget, which reaches 0.99
    assert (judge.held_out_n, judge.num_classes, judge.class_names[7]) == (360, 10, "7")
    assert judge.name == "small-cnn trained on digits, seed 0"
    images, labels = digits[0][1437:], digits[1][1437:]
    called = judge.probabilities(images).argmax(dim=1)
    assert float((called == labels).double().mean()) == judge.held_out_accuracy


def test_the_judge_is_robust_to_small_shifts_and_noise(judge: Judge, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][1437:], digits[1][1437:]
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    called = judge.probabilities(images.roll(1, dims=3) + noise).argmax(dim=1)
    assert float((called == labels).double().mean()) >= 0.93


def test_probabilities_and_features_have_the_promised_shape(judge: Judge, digits: tuple[Tensor, Tensor]) -> None:
    images = digits[0][:300]
    judged, features = judge.probabilities(images), judge.features(images)
    assert judged.shape == (300, 10) and features.shape == (300, 64) and not features.requires_grad
    assert torch.allclose(judged.sum(dim=1), torch.ones(300))
    assert torch.allclose(judge.probabilities(images[299:]), judged[299:], atol=1e-6)  # batches do not mix
    assert judge.probabilities(images[:0]).shape == (0, 10)


def test_same_seed_same_weights_other_seed_others(digits: tuple[Tensor, Tensor]) -> None:
    first, again, other = (train(digits, seed=seed).module.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_training_leaves_the_global_generator_alone_and_does_not_read_it(digits: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(1)
    first = train(digits)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = train(digits)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.module.head.weight, again.module.head.weight)


def test_save_and_load_are_the_same_judge(judge: Judge, digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    judge.save(tmp_path / "judge")
    loaded = Judge.load(tmp_path / "judge")
    assert torch.equal(loaded.probabilities(digits[0][:50]), judge.probabilities(digits[0][:50]))
    assert {k: v for k, v in vars(loaded).items() if k != "module"} == {
        k: v for k, v in vars(judge).items() if k != "module"
    }
    assert sorted(p.name for p in (tmp_path / "judge").iterdir()) == ["classifier.json", "classifier.safetensors"]


def test_a_missing_or_broken_file_is_bad_input(judge: Judge, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no classifier in"):
        Judge.load(tmp_path)
    judge.save(tmp_path)
    weights, record = tmp_path / "classifier.safetensors", tmp_path / "classifier.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(BadInput, match="damaged"):
        Judge.load(tmp_path)
    weights.write_bytes(whole)
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "schema": 99}))
    with pytest.raises(BadInput, match="schema 99"):
        Judge.load(tmp_path)
    record.write_text(json.dumps({k: v for k, v in content.items() if k != "architecture"}))
    with pytest.raises(BadInput, match="cannot be read"):
        Judge.load(tmp_path)
    record.write_text("{half")
    with pytest.raises(BadInput, match="cannot be read"):
        Judge.load(tmp_path)


def test_uint8_images_are_read_like_floats_in_minus_one_to_one(judge: Judge, digits: tuple[Tensor, Tensor]) -> None:
    as_bytes = ((digits[0][:20] + 1) * 127.5).round().to(torch.uint8)
    assert torch.allclose(judge.probabilities(as_bytes), judge.probabilities(as_bytes / 127.5 - 1))


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 28, 28), (3, 9, 33), (1, 8, 8)])
def test_any_size_from_eight_pixels_is_built(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    module = SmallClassifier(Architecture(channels=channels, height=height, width=width, num_classes=5)).eval()
    assert module(torch.zeros(2, *shape)).shape == (2, 5)
    assert module.features(torch.zeros(2, *shape)).shape == (2, 64 if min(height, width) < 16 else 128)


def test_progress_is_called_after_every_step(digits: tuple[Tensor, Tensor]) -> None:
    seen: list[tuple[int, int]] = []
    train(digits, steps=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


IMAGES, LABELS = torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (IMAGES[:, 0], LABELS, r"\[N, C, H, W\]"),
        (IMAGES[:, :, :7], LABELS, "8 pixels"),
        (IMAGES, LABELS[:3], "a label for each"),
        (IMAGES + 255, LABELS, r"\[-1, 1\]"),
        (IMAGES * float("nan"), LABELS, r"\[-1, 1\]"),
        (IMAGES, LABELS + 1, "labels"),
        (IMAGES, LABELS / 2, "labels"),
    ],
)
def test_malformed_training_data_is_refused(images: Tensor, labels: Tensor, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        train_classifier(images, labels, num_classes=2, held_out=(IMAGES, LABELS), seed=0, steps=1)


def test_images_of_another_size_are_refused(judge: Judge) -> None:
    with pytest.raises(BadInput, match=r"\(1, 8, 8\)"):
        judge.probabilities(torch.zeros(2, 3, 8, 8))


def test_feature_extractors_by_name(judge: Judge, digits: tuple[Tensor, Tensor]) -> None:
    images = digits[0][:12]
    assert torch.equal(extractor("classifier", judge)(images), judge.features(images))
    assert torch.equal(extractor("pixels")(images), images.reshape(12, 64))
    with pytest.raises(BadInput, match="did you mean pixels"):
        extractor("pixel", judge)
    with pytest.raises(BadInput, match="need a trained classifier"):
        extractor("classifier")
