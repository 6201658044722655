"""Latents computed once: what is read is what would have been computed, and only what was asked for is there."""

import numpy as np
import pytest
import torch
from tests.conftest import make_squares

from erasediff.data.encoded import MOMENTS, RECORD, encoded
from erasediff.data.pairs import Pairs
from erasediff.errors import BadInput


class Counted:
    """An encoder that halves images, and counts what passes."""

    def __init__(self):
        self.images = 0

    def __call__(self, images):
        self.images += len(images)
        return torch.stack([images / 2, images.abs()], 1)


@pytest.fixture
def squares():
    return make_squares()


@pytest.mark.parametrize("on_disk", [False, True])
def test_rows_are_what_the_encoder_says(squares, tmp_path, on_disk):
    index = torch.tensor([5, 2, 9, 2])
    found = encoded(squares, index, Counted(), key="a", place=tmp_path / "c" if on_disk else None)
    assert found.moments.shape[0] == 3
    wanted = torch.tensor([9, 5, 5])
    assert torch.equal(found.at(wanted), Counted()(squares.floats(wanted)))
    with pytest.raises(BadInput, match="neither to the forget set nor to the retain set"):
        found.at(torch.tensor([2, 3]))


def test_files_are_read_again_and_only_where_they_fit(squares, tmp_path):
    index, encode, told = torch.arange(20), Counted(), []
    first = encoded(squares, index, encode, key="a", place=tmp_path / "c")
    passed = encode.images
    again = encoded(squares, index, encode, key="a", place=tmp_path / "c", on_batch=told.append)
    assert encode.images == passed and sum(told) == 20 and torch.equal(first.moments, again.moments)
    others = torch.cat([torch.arange(10), torch.arange(11, 21)])  # as many, and the same first one
    for changed in ({"key": "b"}, {"indices": torch.arange(19)}, {"indices": others}):
        asked = {"indices": index, "key": "a", **changed}
        encoded(squares, encode=encode, place=tmp_path / "c", **asked)
        assert encode.images > passed
        passed = encode.images


def test_a_half_written_set_is_begun_again(squares, tmp_path):
    index, place = torch.arange(20), tmp_path / "c"
    whole = encoded(squares, index, Counted(), key="a", place=place).moments.clone()
    (place / RECORD).unlink()  # it is written last
    np.lib.format.open_memmap(place / MOMENTS, "r+")[3:] = 0
    assert torch.equal(encoded(squares, index, Counted(), key="a", place=place).moments, whole)


def test_batches_carry_their_latents_through_splits_and_lose_them_with_their_images(squares):
    index = torch.arange(40)
    known = encoded(squares, index, Counted(), key="a")
    pairs = Pairs(squares, index[:30], index[30:], batch_size=6, seed=0, encoded=known)
    pair = pairs.at(3)
    for batch in (pair.retain, pair.forget):
        assert torch.equal(batch.encoded, Counted()(batch.images))
        parts = list(batch.split(4))
        assert torch.equal(torch.cat([p.encoded for p in parts]), batch.encoded)
        assert batch.showing(torch.zeros_like(batch.images)).encoded is None
    assert Pairs(squares, index[:30], None, batch_size=6, seed=0).at(0).retain.encoded is None
