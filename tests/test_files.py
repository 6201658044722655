"""Files written whole or not at all, whatever interrupts."""

import errno
import shutil
from pathlib import Path

import pytest

from erasediff.errors import BadInput
from erasediff.files import joint_hash, staged_directory, writable


def written(final, text):
    with staged_directory(final) as staging:
        (staging / "w").write_text(text)


def test_a_directory_takes_the_place_of_the_one_before(tmp_path):
    for text in ("old", "new"):
        written(tmp_path / "model", text)
        assert (tmp_path / "model" / "w").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("number", [0, 1])
def test_what_was_there_is_put_back_where_a_rename_fails(number, tmp_path, monkeypatch):
    written(tmp_path / "model", "old")
    real, calls = Path.replace, []

    def replace(self, target):
        calls.append(self)
        if len(calls) == number + 1:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "model", "new")
    assert (tmp_path / "model" / "w").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_an_interrupt_while_the_old_one_is_deleted_loses_neither(tmp_path, monkeypatch):
    written(tmp_path / "model", "old")
    real = shutil.rmtree

    def stopped(path, **options):
        monkeypatch.setattr(shutil, "rmtree", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", stopped)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "model", "new")
    assert (tmp_path / "model" / "w").read_text() == "new"


def test_only_what_cannot_be_written_there_is_said_to_be_so(tmp_path):
    with pytest.raises(FileNotFoundError), writable(tmp_path / "run"):
        (tmp_path / "elsewhere" / "list.txt").read_text()
    with pytest.raises(BadInput, match=r"cannot write in .*run: no such file"), writable(tmp_path / "run"):
        (tmp_path / "run" / "w").write_text("")
    with pytest.raises(BadInput, match="no space left"), writable(tmp_path):
        raise OSError(errno.ENOSPC, "full")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write in"), writable(tmp_path / "file" / "a" / "b"):
        (tmp_path / "file" / "a" / "b").mkdir(parents=True)


def test_one_hash_stands_for_all_files_and_for_one_its_own():
    assert joint_hash({"w": "ab"}) == "ab"
    two = joint_hash({"a": "1", "b": "2"})
    assert two == joint_hash({"b": "2", "a": "1"}) != joint_hash({"a": "1", "b": "3"})
