"""Targets: what a user may say, and how it divides the data."""

from dataclasses import replace

import pytest
import torch

from erasediff.data import targets
from erasediff.errors import BadInput


def test_forms_parse_and_print_back():
    for text in ("class:7", "class:cat", "samples:list.txt", "concept:Van Gogh"):
        assert str(targets.parse(text)) == text


@pytest.mark.parametrize("text", ["7", "clas:7", ""])
def test_other_forms_are_refused(text):
    with pytest.raises(BadInput, match=r"is not of the form class:"):
        targets.parse(text)


@pytest.mark.parametrize("kind", targets.KINDS)
def test_a_target_that_says_nothing_is_refused_with_an_example(kind):
    for text in (f"{kind}:", f"{kind}: "):
        with pytest.raises(BadInput, match=rf"says of no {kind} which; give it after the colon, such as '?{kind}:\w"):
            targets.parse(text)


def test_a_class_divides_the_training_part(squares):
    split = targets.split([targets.Class(2)], squares)
    assert split.classes == (2,)
    assert (squares.labels[split.forget] == 2).all()
    assert (squares.labels[split.retain] != 2).all()
    both = torch.cat([split.forget, split.retain])
    assert not squares.held_out[both].any()
    assert len(both) == int((~squares.held_out).sum())


def test_several_targets_join(squares):
    split = targets.split([targets.Class(0), targets.Class("3")], squares)
    assert split.classes == (0, 3)
    assert set(squares.labels[split.retain].tolist()) == {1, 2}


def test_what_was_forgotten_before_belongs_to_neither_side(squares):
    split = targets.split([targets.Class(2)], squares, [targets.Class(0)])
    assert (split.classes, split.gone, split.excluded) == ((2,), (0,), (0, 2))
    assert set(squares.labels[split.forget].tolist()) == {2}
    assert set(squares.labels[split.retain].tolist()) == {1, 3}
    with pytest.raises(BadInput, match=r"is all of squares but what was forgotten before \(class:0\)"):
        targets.split([targets.Class(c) for c in (1, 2, 3)], squares, [targets.Class(0)])


def test_samples_by_index_and_name(squares, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("0\n5\n\n6\n")
    split = targets.split([targets.Samples(str(listed))], squares)
    assert split.forget.tolist() == [0, 5, 6]
    assert split.classes == ()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ([targets.Class(4)], "there is no class '4'; classes: 0, 1, 2, 3"),
        ([targets.Class("-1")], "there is no class '-1'"),
        ([targets.Class(c) for c in range(4)], "retain set is empty"),
        ([targets.Samples("nowhere.txt")], "does not exist"),
        ([targets.Concept("x")], "no class or caption says 'x'"),
    ],
)
def test_what_cannot_be_divided_says_why(squares, wanted, said):
    with pytest.raises(BadInput, match=said):
        targets.split(wanted, squares)


def test_a_file_name_means_its_sample_only_where_it_is_the_only_one(squares, tmp_path):
    names = ["b.png", "sub/b.png", "cats/a.png", "dogs/a.png", "dogs/c.png"]
    data, listed = replace(squares, names=[*names, *map(str, range(100, 175))]), tmp_path / "list.txt"
    for entry, index in (("b.png", 0), ("sub/b.png", 1), ("c.png", 4), ("dogs/a.png", 3), ("7", 7)):
        listed.write_text(entry)
        assert targets.Samples(str(listed)).members(data).nonzero().tolist() == [[index]]
    listed.write_text("a.png")
    with pytest.raises(BadInput, match=r"'a.png', which may be cats/a.png, dogs/a.png; give it in full"):
        targets.Samples(str(listed)).members(data)


@pytest.mark.parametrize(("content", "said"), [("", "names no sample"), ("80", "not among the 80"), ("x.png", "x.png")])
def test_bad_sample_lists(squares, tmp_path, content, said):
    (tmp_path / "l.txt").write_text(content)
    with pytest.raises(BadInput, match=said):
        targets.split([targets.Samples(str(tmp_path / "l.txt"))], squares)


def test_held_out_samples_alone_leave_the_forget_set_empty(squares, tmp_path):
    held = squares.held_out.nonzero()[:, 0].tolist()
    (tmp_path / "l.txt").write_text("\n".join(map(str, held)))
    with pytest.raises(BadInput, match="forget set empty"):
        targets.split([targets.Samples(str(tmp_path / "l.txt"))], squares)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"text": " "}, "a concept is empty"),
        ({"text": "hat", "anchor": "A  Hat"}, "is the concept itself"),
        ({"text": "hat", "anchor": " "}, "the anchor of concept:hat is empty"),
    ],
)
def test_concepts_that_mean_nothing(given, said):
    with pytest.raises(BadInput, match=said):
        targets.Concept(**given)


def test_data_may_say_what_a_target_means(squares):
    from dataclasses import replace

    told = replace(squares, meant={"concept:dark": (1, 3), "class:bright": (2,)})
    split = targets.split([targets.Concept("dark"), targets.Class("bright")], told)
    assert split.classes == (1, 2, 3)
    assert set(squares.labels[split.retain].tolist()) == {0}
