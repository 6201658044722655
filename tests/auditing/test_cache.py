"""What was answered is not asked again, and a damaged answer counts as none."""

import numpy as np

from erasediff.auditing.cache import Cache, key_of
from erasediff.auditing.finding import Evidence, Finding, rows_of
from erasediff.auditing.result import Measurement


def some():
    measured = Measurement(name="a", group="g", subject="erased", value=0.5, n=2, higher_is_better=False)
    return [Finding(measured, Evidence(attack="x", role="trace", rows=rows_of([0, 1]), margin=0.1)), Finding(measured)]


def test_findings_and_pictures_come_back(tmp_path):
    cache, pictures = Cache(tmp_path / "cache"), {"forget": np.zeros((2, 4, 4, 1), np.uint8)}
    cache.keep("k", some())
    cache.keep_pictures("k", pictures)
    again = Cache(tmp_path / "cache")
    assert again.find("k") == some()
    assert again.pictures("k")["forget"].shape == (2, 4, 4, 1)
    assert again.find("other") is None
    assert again.pictures("other") is None


def test_damaged_files_count_as_none(tmp_path):
    Cache(tmp_path).keep("k", some())
    Cache(tmp_path).keep_pictures("k", {"forget": np.zeros(3, np.uint8)})
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:20])
    assert Cache(tmp_path).find("k") is None
    assert Cache(tmp_path).pictures("k") is None


def test_damage_within_a_picture_counts_as_none(tmp_path):
    """The archive's list of contents is whole, and what it lists cannot be unpacked."""
    Cache(tmp_path).keep_pictures("k", {"forget": np.arange(4000, dtype=np.uint16).astype(np.uint8)})
    path = tmp_path / "k.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes(range(200, 240)) + whole[100:])
    assert Cache(tmp_path).pictures("k") is None


def test_without_a_folder_it_remembers_while_it_lives():
    cache = Cache()
    cache.keep("k", some())
    assert cache.find("k") == some()
    assert Cache().find("k") is None


def test_keys_depend_on_everything_given():
    assert key_of("a", {"x": 1}) == key_of("a", {"x": 1})
    assert len({key_of("a", 1), key_of("a", 2), key_of("b", 1), key_of("a", 1, seed=0)}) == 4
