"""Prompts that users hand in, and our own."""

import pytest

from erasediff.data import wording
from erasediff.errors import BadInput


def test_a_file_has_a_prompt_a_line_and_none_twice(tmp_path):
    (tmp_path / "p.txt").write_text("a hat\n\n  a   hat \na cap\n")
    assert wording.read(tmp_path / "p.txt") == ("a hat", "a cap")
    assert wording.read(["a hat", " a hat"]) == ("a hat",)


def test_files_and_texts_are_mixed(tmp_path):
    (tmp_path / "p.txt").write_text("a hat\na cap\n")
    assert wording.read_several(["a dog", str(tmp_path / "p.txt")], "x") == ("a dog", "a hat", "a cap")
    assert wording.read_several("a dog", "x") == ("a dog",)
    with pytest.raises(BadInput, match=r"x file nowhere\.txt does not exist"):
        wording.read_several(["nowhere.txt"], "x")


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(BadInput, match=r"prompts file .*empty\.txt is empty"):
        wording.read(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(BadInput, match="is not UTF-8 text"):
        wording.read(tmp_path / "latin.txt")
    with pytest.raises(BadInput, match="prompts holds no prompt"):
        wording.read([" "])


def test_our_own_prompts_are_distinct_and_templates_hold_one_place():
    assert len(set(wording.COMMON)) == len(wording.COMMON)
    assert all(t.count("{}") == 1 for t in wording.TEMPLATES)
