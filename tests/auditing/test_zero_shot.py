"""The judge that was not trained: on planted embeddings, and how far it is trusted."""

from dataclasses import replace

import pytest
import torch

from erasediff.api.judges import clip_for, judge_for
from erasediff.auditing.zero_shot import HELD_OUT, ZeroShot, held_out_rows, of_classes
from erasediff.errors import BadInput
from tests.conftest import make_squares


class Planted:
    """A CLIP that sees which quadrant is bright and reads the number in a text."""

    title, fingerprint = "planted (sha256 0)", "0"

    def __init__(self, blind=()):
        self.blind = blind

    def images(self, images):
        cells = torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)
        return 5.0 * torch.nn.functional.one_hot(cells.argmax(1), 4).float()

    def texts(self, texts):
        numbers = [int(next(c for c in text if c.isdigit())) for text in texts]
        rows = torch.eye(4)[numbers]
        rows[[n in self.blind for n in numbers]] = 0.0  # says nothing of any quadrant
        return rows


@pytest.fixture
def squares():
    return make_squares()


def test_planted_classes_are_told(squares):
    judge = of_classes(Planted(), squares.class_names)
    found = judge.probabilities(squares.floats(torch.arange(8)))
    expected = (100 * torch.eye(4)).softmax(1)[squares.labels[:8]]
    assert torch.allclose(found, expected, atol=1e-6)
    assert judge.texts[0] == "a photo of a 0"
    assert (judge.num_classes, judge.held_out_n) == (4, 0)
    assert judge.features(squares.floats(torch.arange(8))).shape == (8, 4)


@pytest.mark.parametrize(("blind", "accuracy"), [((), 1.0), ((2,), 0.75)])
def test_it_is_trusted_as_far_as_it_is_right_on_real_held_out_images(squares, blind, accuracy):
    judge = judge_for("clip", squares, 0, quiet=True, clip=Planted(blind))
    held = int(squares.held_out.sum())
    assert judge.held_out_n == held
    assert judge.held_out_accuracy == pytest.approx(accuracy, abs=2 / held)


def test_its_accuracy_is_measured_once(squares, tmp_path):
    first = judge_for("clip", squares, 0, quiet=True, clip=Planted(), kept=tmp_path)
    blind = Planted()
    blind.images = None  # asked again, it would fail
    again = judge_for("clip", squares, 0, quiet=True, clip=blind, kept=tmp_path)
    assert (again.held_out_accuracy, again.held_out_n) == (first.held_out_accuracy, first.held_out_n)
    (record,) = tmp_path.glob("zero-shot-*.json")
    record.write_text("{")
    assert judge_for("clip", squares, 0, quiet=True, clip=Planted(), kept=tmp_path).held_out_n == first.held_out_n


def test_own_texts_and_other_weights_make_another_judge(squares):
    judge = of_classes(Planted(), squares.class_names)
    asked = judge_for("clip", squares, 0, quiet=True, clip=Planted(), texts=[f"{c} on a table" for c in range(4)])
    assert asked.texts[3] == "3 on a table"
    other = Planted()
    other.fingerprint = "1"
    assert len({judge.fingerprint, asked.fingerprint, of_classes(other, squares.class_names).fingerprint}) == 3


def test_a_concept_without_labels_is_told_from_its_neighbours(squares):
    judge = of_classes(Planted(), ["quadrant 1", "quadrant 0", "quadrant 2"])
    shown = squares.floats((squares.labels == 1).nonzero()[:5, 0])
    assert judge.probabilities(shown).argmax(1).tolist() == [0] * 5
    assert judge.class_names == ("quadrant 1", "quadrant 0", "quadrant 2")
    assert judge.held_out_accuracy == 0  # nobody said what real images show: no verdict rests on it


def test_held_out_images_are_spread_over_all_of_them():
    rows = held_out_rows(torch.ones(3 * HELD_OUT, dtype=torch.bool))
    assert len(rows.unique()) == HELD_OUT
    assert (rows[0], rows[-1]) == (0, 3 * HELD_OUT - 1)
    assert held_out_rows(torch.tensor([False, True, True])).tolist() == [1, 2]


def test_refusals(squares):
    with pytest.raises(BadInput, match="at least two"):
        of_classes(Planted(), ["0"])
    with pytest.raises(BadInput, match="same text apart: 'x'"):
        ZeroShot(clip=Planted(), texts=("x", "x"), class_names=("a", "b"))
    with pytest.raises(BadInput, match="has no labels; give data with class folders or captions"):
        judge_for("clip", replace(squares, labels=None), 0, quiet=True, clip=Planted())
    with pytest.raises(BadInput, match="features clip needs a CLIP model, and none is fetched by default"):
        clip_for(None, classifier=None, features="clip")
    assert clip_for(None, classifier=None, features="pixels") is None
