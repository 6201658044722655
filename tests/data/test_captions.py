"""Captions from columns and from templates: aligned with their images, and refused where there are none."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from erasediff.data import captions, sources
from erasediff.data.targets import Concept, split
from erasediff.errors import BadInput

IMAGES = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
SAID = ["a cat", "two  cats", "a dog", "a cat", "dogs", "a cat"]


def npz(path, **arrays):
    np.savez(path, images=IMAGES, **arrays)
    return sources.load(str(path))


def folder(path, rows):
    path.mkdir()
    for number in range(3):
        Image.fromarray(IMAGES[number]).save(path / f"{number}.png")
    (path / "metadata.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def spoken(data):
    return [data.class_names[c] for c in data.labels]


def test_a_text_array_of_an_npz(tmp_path):
    held = np.arange(6) > 3
    data = npz(tmp_path / "a.npz", labels=np.arange(6) % 2, held_out=held, said=np.array(SAID))
    found = captions.from_column(data, "said")
    assert spoken(found) == [" ".join(s.split()) for s in SAID]
    assert found.class_names == ("a cat", "a dog", "dogs", "two cats")
    assert found.held_out.tolist() == held.tolist()
    assert data.class_names == ("0", "1")


def test_captions_without_labels_are_the_classes(tmp_path):
    data = npz(tmp_path / "a.npz", captions=np.array(SAID))
    assert spoken(data) == SAID
    assert split([Concept("cat")], data).classes == (0,)
    assert npz(tmp_path / "b.npz", captions=np.array(SAID), labels=np.zeros(6, int)).class_names == ("0",)
    with pytest.raises(BadInput, match=r"captions must be text \[N\], got int64"):
        npz(tmp_path / "c.npz", captions=np.arange(6))


def test_keys_of_metadata_in_any_order_and_twice(tmp_path):
    rows = [{"file_name": f"{n}.png", "text": t, "long": f"{t}!"} for n, t in [(2, "c"), (0, "a"), (1, "b"), (0, "z")]]
    data = sources.load(folder(tmp_path / "f", rows))
    found = captions.from_column(data, "long")
    assert spoken(found) == ["c!", "a!", "b!", "z!"]
    assert [int(i[0, 0, 0]) for i in found.images] == [2, 0, 1, 0]
    fewer = replace(data, images=data.images[1:], names=data.names[1:])
    assert spoken(captions.from_column(fewer, "text")) == ["a", "b", "z"]


def test_templates_are_drawn_for_each_image_and_stay(tmp_path):
    labels = np.zeros(6, int)
    data = npz(tmp_path / "a.npz", labels=labels, class_names=np.array(["sneaker"]))
    found = captions.in_templates(data, ["a {}", "{}s"])
    assert set(found.class_names) == {"a sneaker", "sneakers"}
    assert spoken(found) == spoken(captions.in_templates(data, ["a {}", "{}s"]))


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("text", "no caption column 'text'.*columns of text: said, more; name one of them"),
        ("sad", r"did you mean said\?"),
        ("more", "the caption of 2 is empty .1 of 6 are."),
        ("labels", "no caption column 'labels'"),
    ],
)
def test_a_column_that_is_not_there_or_has_holes(tmp_path, column, said):
    more = np.array(["a", "b", "", "d", "e", "f"])
    data = npz(tmp_path / "a.npz", labels=np.arange(6) % 2, said=np.array(SAID), more=more)
    with pytest.raises(BadInput, match=said):
        captions.from_column(data, column)


@pytest.mark.parametrize("spec", ["digits", "folder"])
def test_sources_without_captions(tmp_path, spec):
    if spec == "folder":
        (tmp_path / "cat").mkdir()
        Image.fromarray(IMAGES[0]).save(tmp_path / "cat" / "a.png")
        spec = str(tmp_path)
    with pytest.raises(BadInput, match=r"columns of text: none; .*--caption_template 'a \{\}'"):
        captions.from_column(sources.load(spec), "text")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"file_name": "0.png", "text": "a"}, {"file_name": "9.png", "text": "b"}], r"names 9.png, .*1 of 2 images"),
        ([{"text": "a"}], "line 1 has no file_name"),
        (["", "[1]"], "line 2 has no file_name"),
        (["{"], "line 1 is not JSON"),
    ],
)
def test_a_broken_caption_file(tmp_path, rows, said):
    with pytest.raises(BadInput, match=said):
        sources.load(folder(tmp_path / "f", rows))


@pytest.mark.parametrize("template", ["a photo", "{} and {}"])
def test_a_template_needs_one_place(tmp_path, template):
    with pytest.raises(BadInput, match=r"needs \{\} once"):
        captions.in_templates(npz(tmp_path / "a.npz", labels=np.zeros(6, int)), [template])


def test_templates_need_names(tmp_path):
    with pytest.raises(BadInput, match="neither labels nor captions"):
        captions.in_templates(npz(tmp_path / "a.npz"), ["a {}"])


def test_a_column_of_a_datasets_id(monkeypatch):
    """The Hub's part is a stand-in: no network, and the package is an extra."""
    fake = SimpleNamespace(Image=type("Image", (), {}), ClassLabel=type("ClassLabel", (), {}))
    columns = {"image": list(IMAGES), "en_text": SAID, "width": [8] * 6}
    kinds = {"image": fake.Image(), "en_text": SimpleNamespace(dtype="string"), "width": SimpleNamespace(dtype="int64")}
    table = type("Table", (), {"features": kinds, "__getitem__": lambda self, name: columns[name]})
    fake.load_dataset = lambda spec, split: table()
    monkeypatch.setitem(sys.modules, "datasets", fake)
    data = sources.load("somebody/cats")
    assert data.labels is None
    assert spoken(captions.from_column(data, "en_text")) == [" ".join(s.split()) for s in SAID]
    with pytest.raises(BadInput, match="columns of text: en_text"):
        captions.from_column(data, "width")
