"""Own images: any size and mode, captions, and what cannot be read."""

import json

import numpy as np
import pytest
from PIL import Image

from erasediff.data.folders import captioned, fitted, read_folder, share
from erasediff.errors import BadInput

SHAPE = (3, 16, 16)


@pytest.fixture
def photos(tmp_path):
    for i, size in enumerate([(16, 16), (40, 20), (20, 40), (17, 16)]):
        Image.new("RGB", size, (10 * i, 0, 255)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_images_of_every_size_are_resized_and_centre_cropped(tmp_path):
    """A wide image of three stripes: the middle one is what is left."""
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "high.png")
    found = read_folder(tmp_path, SHAPE)
    assert found.images.shape == (2, 16, 16, 3)
    assert found.images[:, 2:-2, 2:-2].min() == 255
    assert found.notes() == [f"2 of 2 images in {tmp_path} were resized and centre-cropped to 16 x 16"]


def test_an_image_of_the_right_size_keeps_its_bits(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_folder(tmp_path, SHAPE)
    assert np.array_equal(found.images[0], pixels)
    assert found.notes() == []


def test_modes_become_the_channels_of_the_model(photos):
    Image.new("RGBA", (16, 16), (1, 2, 3, 4)).save(photos / "alpha.png")
    Image.new("L", (16, 16), 7).save(photos / "grey.png")
    assert read_folder(photos, SHAPE).images.shape == (6, 16, 16, 3)
    assert read_folder(photos, (1, 16, 16)).images.shape == (6, 16, 16, 1)
    with pytest.raises(BadInput, match="have 1, 3 channels, but this model takes 4"):
        read_folder(photos, (4, 16, 16))


def test_a_camera_that_was_turned_is_turned_back(tmp_path):
    image = Image.new("RGB", (16, 16))
    image.paste((255, 255, 255), (0, 0, 16, 8))  # white above
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    found = read_folder(tmp_path, SHAPE).images[0]
    assert found[2, 8, 0] == 0
    assert found[13, 8, 0] == 255


def test_captions_come_from_metadata_and_otherwise_in_equal_stretches(photos):
    found = read_folder(photos, SHAPE)
    assert found.names == ("0.png", "1.png", "2.png", "3.png")
    assert captioned(found, ["a", "b"]) == ("a", "a", "b", "b")
    rows = [{"file_name": "2.png", "text": "two"}, {"file_name": "0.png"}, {"file_name": "1.png", "label": 5}]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_folder(photos, SHAPE)
    assert found.names == ("2.png", "0.png", "1.png")
    assert captioned(found, ["x"]) == ("two", "x", "5")
    assert read_folder(photos, SHAPE, only=["3.png"]).names == ("3.png",)


def test_a_shared_folder_is_divided_by_captions(photos):
    rows = [{"file_name": f"{i}.png", "text": "hat" if i % 2 else "dog"} for i in range(4)]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = read_folder(photos, SHAPE)
    part = share(folder, "hat".__eq__, {"hat", "dog"}.__contains__, "hat")
    assert (part.names, len(part.images)) == (("1.png", "3.png"), 2)
    with pytest.raises(BadInput, match=r"the caption of 0\.png says none of them"):
        share(folder, "hat".__eq__, "hat".__eq__, "hat")
    with pytest.raises(BadInput, match="no caption says 'cat'"):
        share(folder, "cat".__eq__, {"hat", "dog"}.__contains__, "cat")


def broken(photos, name):
    whole = (photos / "1.png").read_bytes()
    (photos / name).write_bytes(whole[: len(whole) // 2] if name == "cut.png" else b"no image")


@pytest.mark.parametrize("name", ["cut.png", "text.png"])
def test_the_first_bad_file_is_named_or_skipped_and_counted(photos, name):
    broken(photos, name)
    with pytest.raises(BadInput, match=rf"image .*{name} cannot be read: .*; remove it, or give --skip_unreadable"):
        read_folder(photos, SHAPE)
    found = read_folder(photos, SHAPE, skip_unreadable=True)
    assert (len(found.images), found.skipped) == (4, (name,))
    assert any(
        f"1 of 5 images in {photos} could not be read and are left out, first {name}" in note for note in found.notes()
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"file_name": "x.png"}', r"image .*x\.png does not exist"),
        ("no json", r"metadata\.jsonl line 1 is not JSON"),
        ('{"file_name": "0.png"}\n{"name": "1.png"}', "line 2 has no file_name"),
        ("\n", "names no image"),
    ],
)
def test_bad_captions_are_named(photos, lines, said):
    (photos / "metadata.jsonl").write_text(lines)
    with pytest.raises(BadInput, match=said):
        read_folder(photos, SHAPE)


def test_folders_without_images(tmp_path):
    with pytest.raises(BadInput, match="holds no image; readable are"):
        read_folder(tmp_path, SHAPE)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"no readable image: 1 cannot be read, first a\.png"):
        read_folder(tmp_path, SHAPE, skip_unreadable=True)
    with pytest.raises(BadInput, match="does not exist; give a folder"):
        read_folder(tmp_path / "nowhere", SHAPE)


def test_data_in_a_folder_is_fitted_with_its_classes(photos):
    rows = [{"file_name": f"{i}.png", "text": "hat" if i % 2 else "dog"} for i in range(4)]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data, notes = fitted(str(photos), SHAPE)
    assert data.image_shape == SHAPE
    assert [data.class_names[c] for c in data.labels] == ["dog", "hat", "dog", "hat"]
    assert notes == [f"3 of 4 images in {photos} were resized and centre-cropped to 16 x 16"]
