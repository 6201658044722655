"""Every form of DATA gives the same thing; what cannot be read says why."""

import gzip
import json

import numpy as np
import pytest
import torch
from PIL import Image

from erasediff.data import sources
from erasediff.data.images import build
from erasediff.errors import BadInput

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (10, 8, 8), dtype=np.uint8)
LABELS = np.arange(10) % 2


def save_npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_digits_hold_a_fifth_of_every_class_out():
    data = sources.load("digits")
    assert data.images.shape == (1797, 1, 8, 8)
    assert data.images.dtype == torch.uint8
    for digit in range(10):
        share = data.held_out[data.labels == digit].double().mean()
        assert 0.18 < share < 0.21
    assert torch.equal(data.held_out, sources.load("digits").held_out)


def test_npz_with_and_without_channels_and_labels(tmp_path):
    data = sources.load(save_npz(tmp_path / "a.npz", images=GREY, labels=LABELS))
    assert data.image_shape == (1, 8, 8)
    assert data.class_names == ("0", "1")
    colour = sources.load(save_npz(tmp_path / "b.npz", images=np.stack([GREY] * 3, -1)))
    assert colour.image_shape == (3, 8, 8)
    assert colour.labels is None
    assert torch.equal(colour.images[:, 0], data.images[:, 0])


def test_npz_may_say_what_is_held_out(tmp_path):
    held = np.arange(10) >= 7
    data = sources.load(save_npz(tmp_path / "a.npz", images=GREY, labels=LABELS, held_out=held))
    assert data.held_out.tolist() == held.tolist()
    assert data.held_out.dtype == torch.bool


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (np.zeros(9, bool), r"held_out must be bool \[10\], got bool \[9\]"),
        (np.zeros((10, 1), bool), r"must be bool \[10\], got bool \[10, 1\]"),
        (np.arange(10) >= 7, "must be bool .* got int64"),
        (np.zeros(10, bool), "names none of 10 images"),
        (np.ones(10, bool), "names all of 10 images"),
    ],
)
def test_npz_refuses_what_cannot_be_held_out(tmp_path, held, said):
    held = held.astype(np.int64) if "int64" in said else held
    with pytest.raises(BadInput, match=said):
        sources.load(save_npz(tmp_path / "a.npz", images=GREY, labels=LABELS, held_out=held))


def test_floats_span_minus_one_to_one():
    data = build("x", np.array([[[0] * 8] * 8, [[255] * 8] * 8], dtype=np.uint8), None)
    assert data.floats(torch.tensor([0, 1])).flatten(1)[:, 0].tolist() == [-1.0, 1.0]


def write_idx(folder, stem, array, compress):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = header + array.tobytes()
    name = folder / f"{stem}-ubyte{'.gz' if compress else ''}"
    name.write_bytes(gzip.compress(content) if compress else content)


@pytest.mark.parametrize("compress", [True, False])
def test_idx_files_hold_the_test_part_out(tmp_path, compress):
    for part, rows in (("train", slice(0, 7)), ("t10k", slice(7, 10))):
        write_idx(tmp_path, f"{part}-images-idx3", GREY[rows], compress)
        write_idx(tmp_path, f"{part}-labels-idx1", LABELS[rows].astype(np.uint8), compress)
    data = sources.load(f"mnist:{tmp_path}")
    assert data.held_out.tolist() == [False] * 7 + [True] * 3
    assert torch.equal(data.images[:, 0], torch.from_numpy(GREY))


def test_a_folder_of_class_folders(tmp_path):
    for i, image in enumerate(GREY):
        folder = tmp_path / ("cat" if LABELS[i] else "ant")
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02}.png")
    data = sources.load(str(tmp_path))
    assert data.class_names == ("ant", "cat")
    assert data.labels.tolist() == sorted(LABELS.tolist())
    assert data.names[0] == "ant/00.png"


def test_a_folder_with_metadata(tmp_path):
    rows = []
    for i, image in enumerate(GREY):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "label": int(LABELS[i])}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    data = sources.load(str(tmp_path))
    assert data.labels.tolist() == LABELS.tolist()
    assert torch.equal(data.images[:, 0], torch.from_numpy(GREY))


def test_a_folder_with_captions(tmp_path):
    said = ["two cats" if label else "an ant" for label in LABELS]
    for i, image in enumerate(GREY):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    rows = [json.dumps({"file_name": f"{i}.png", "text": text}) for i, text in enumerate(said)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    data = sources.load(str(tmp_path))
    assert [data.class_names[label] for label in data.labels] == said


def bad_cases(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"not an image")
    (tmp_path / "sizes").mkdir()
    Image.fromarray(GREY[0]).save(tmp_path / "sizes" / "a.png")
    Image.fromarray(GREY[0][:4]).save(tmp_path / "sizes" / "b.png")
    (tmp_path / "idx").mkdir()
    pickled = np.array([{"a": 1}], dtype=object)
    save_npz(tmp_path / "whole.npz", images=GREY)
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.save(tmp_path / "array.npy", GREY)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "metadata.jsonl").write_bytes(b'{"file_name": "\xe9.png"}')
    return [
        (str(tmp_path / "cut.npz"), "cannot be read as .npz"),
        (str(tmp_path / "array.npz"), "is a single array; needed is a .npz with the arrays images and labels"),
        (str(tmp_path / "latin"), "metadata.jsonl is not UTF-8 text"),
        (str(tmp_path / "none.npz"), "does not exist"),
        (save_npz(tmp_path / "p.npz", images=pickled), "without pickles"),
        (save_npz(tmp_path / "i.npz", labels=LABELS), "no array named images"),
        (save_npz(tmp_path / "f.npz", images=GREY / 255), "must be uint8"),
        (save_npz(tmp_path / "l.npz", images=GREY, labels=LABELS[:5]), r"labels must be integers \[10\]"),
        (save_npz(tmp_path / "n.npz", images=GREY, labels=LABELS - 1), "labels must lie between 0.*got -1"),
        (save_npz(tmp_path / "c.npz", images=GREY, labels=LABELS, class_names=["a"]), "between 0 and 0, got 0 to 1"),
        (str(tmp_path / "empty"), "holds no image"),
        (str(tmp_path / "broken"), "a.png cannot be read"),
        (str(tmp_path / "sizes"), "sizes must agree"),
        (f"mnist:{tmp_path / 'idx'}", "lacks train-images-idx3"),
    ]


@pytest.mark.parametrize("case", range(14))
def test_what_cannot_be_read_says_why(tmp_path, case):
    spec, said = bad_cases(tmp_path)[case]
    with pytest.raises(BadInput, match=said):
        sources.load(spec)


def test_a_cut_idx_file_is_named(tmp_path):
    for part, rows in (("train", slice(0, 7)), ("t10k", slice(7, 10))):
        write_idx(tmp_path, f"{part}-images-idx3", GREY[rows], False)
        write_idx(tmp_path, f"{part}-labels-idx1", LABELS[rows].astype(np.uint8), False)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BadInput, match="cut short"):
        sources.load(f"mnist:{tmp_path}")
