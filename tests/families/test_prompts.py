"""A prompt table gives each prompt one label, and its rows back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erasediff.errors import BadInput
from erasediff.families.prompts import PromptTable


def embedded(prompt):
    """An embedding that tells prompts apart."""
    source = torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(prompt)) % 2**31)
    hidden = torch.randn(3, 4, generator=source)
    return {"encoder_hidden_states": hidden, "pooled": hidden[0].bfloat16()}


def table(*prompts):
    rows = [embedded(p) for p in prompts]
    shapes = {"encoder_hidden_states": (0, 3, 4), "pooled": (0, 4)}
    return PromptTable(
        prompts, {n: torch.stack([r[n] for r in rows]) if rows else torch.empty(shapes[n]) for n in shapes}
    )


lists = st.lists(st.text(max_size=8), max_size=6, unique=True).map(lambda found: sorted(found, key=lambda p: p == ""))


@given(lists.filter(bool), st.data())
@settings(max_examples=30, deadline=None)
def test_rows_are_what_looking_them_up_one_by_one_gives(prompts, data):
    made = table(*prompts)
    asked = data.draw(st.lists(st.sampled_from(prompts), max_size=5))
    rows = made.rows(torch.tensor([made.index(p) for p in asked], dtype=torch.long))
    for name, found in rows.items():
        assert found.shape == (len(asked), *made.embeddings[name].shape[1:])
        assert all(torch.equal(row, embedded(p)[name]) for row, p in zip(found, asked, strict=True))


def test_tensors_move_to_a_device_once():
    made = table("a cat", "")
    labels = torch.zeros(2, dtype=torch.long, device="meta")
    made.rows(labels)
    there = dict(made._moved)
    rows = made.rows(labels)
    assert rows["pooled"].device.type == "meta"
    assert rows["encoder_hidden_states"].shape == (2, 3, 4)
    assert [*made._moved] == [labels.device]
    assert made._moved[labels.device] is there[labels.device]


def test_an_unknown_prompt_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match=r"'a caat' is none of the 3 prompts.*did you mean a cat\?"):
        table("a cat", "the sea", "").index("a caat")


def test_the_fingerprint_tells_prompts_order_and_values():
    made = table("a", "b")
    moved = PromptTable(("a", "b"), {n: t + 1 for n, t in made.embeddings.items()})
    renamed = PromptTable(("a", "c"), made.embeddings)
    several = [made, moved, renamed, table("b", "a"), table("a")]
    assert len({t.fingerprint for t in several}) == len(several)
    assert table("a", "b").fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("prompts", "rows", "said"),
    [
        (("a", "a"), 2, "'a' is in the table twice"),
        (("", "a"), 2, "empty prompt is row 0 of 2"),
        (("a", ""), 3, "2 prompts needs a row for each, but pooled has 3"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(prompts, rows, said):
    with pytest.raises(BadInput, match=said):
        PromptTable(prompts, {"pooled": torch.zeros(rows, 4)})
