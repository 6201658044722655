"""Data put together of several origins: labels before images, the same again from its record."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.test_generated import RECIPE, made

from erasediff.data import assembled, sources
from erasediff.data.assembled import Assembled, data_part, drawn_part, folder_part
from erasediff.data.folders import read_folder
from erasediff.data.images import build
from erasediff.errors import BadInput

COLOUR = np.random.default_rng(1).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def parts(tmp_path):
    np.savez(tmp_path / "data.npz", images=COLOUR, labels=np.arange(10) % 3, class_names=["red hat", "dog", "cat"])
    (tmp_path / "own").mkdir()
    for i in range(6):
        Image.fromarray(COLOUR[i]).save(tmp_path / "own" / f"{i}.png")
    own = read_folder(tmp_path / "own", (3, 8, 8))
    data = sources.load(str(tmp_path / "data.npz"))
    retain = replace(RECIPE, name="retain", prompts=("a cap", ""))
    return (
        data_part(data, "a {}"),
        folder_part(own, ["my hat"] * 6),
        drawn_part(RECIPE),
        drawn_part(retain),
    )


def put_together(parts, **more):
    given = {"meaning": {"concept:hat": ("my hat", "a hat", "a red hat")}, "anchors": ("a scarf",), **more}
    return Assembled(parts=parts, image_shape=(3, 8, 8), **given)


def test_everything_but_the_images_is_known_before_anything_is_drawn(parts, tmp_path):
    plan = put_together(parts)
    before = plan.data("x")
    for recipe in (p.recipe for p in parts if p.recipe):
        made(tmp_path / "g" / recipe.name, recipe)
    after = plan.read(tmp_path / "g").data("x")
    assert before.images.shape == after.images.shape == (10 + 6 + 11 + 11, 3, 8, 8)
    assert before.images.untyped_storage().nbytes() == 1
    assert torch.equal(before.labels, after.labels)
    assert torch.equal(before.held_out, after.held_out)
    assert (before.class_names, before.names, before.meant) == (after.class_names, after.names, after.meant)
    assert torch.equal(after.images[:16].permute(0, 2, 3, 1)[10:], torch.from_numpy(COLOUR[:6]))


def test_numbers_of_data_stay_and_the_null_prompt_is_last(parts):
    data = put_together(parts).data("x")
    assert data.class_names[:3] == ("a red hat", "a dog", "a cat")
    assert data.labels[:10].tolist() == [i % 3 for i in range(10)]
    assert data.class_names[-2:] == ("a scarf", "")
    assert {data.class_names[c] for c in data.meant["concept:hat"]} == {"my hat", "a hat", "a red hat"}


def test_it_is_put_together_again_from_its_record(parts, tmp_path):
    plan = put_together(parts)
    for recipe in (p.recipe for p in parts if p.recipe):
        made(tmp_path / "g" / recipe.name, recipe)
    plan.save(tmp_path / "g")
    again, first = sources.load(f"generated:{tmp_path / 'g'}"), plan.read(tmp_path / "g").data("x")
    assert again.fingerprint() == first.fingerprint()
    assert torch.equal(again.held_out, first.held_out)
    assert (again.class_names, again.names, again.meant) == (first.class_names, first.names, first.meant)


@pytest.mark.parametrize("change", ["pixels", "recipe", "meaning", "anchors"])
def test_the_fingerprint_sees_every_change(parts, change):
    plain = put_together(parts)
    other = {
        "pixels": lambda: put_together((replace(parts[0], images=parts[0].images + 1), *parts[1:])),
        "recipe": lambda: put_together((*parts[:2], drawn_part(replace(RECIPE, seed=9)), parts[3])),
        "meaning": lambda: put_together(parts, meaning={"concept:hat": ("a hat",)}),
        "anchors": lambda: put_together(parts, anchors=("a cap",)),
    }[change]()
    assert plain.fingerprint() == put_together(parts).fingerprint() != other.fingerprint()


@pytest.mark.parametrize(("count", "prompts"), [(200, 5), (200, 10), (20, 13), (11, 3)])
def test_a_fifth_of_what_is_drawn_is_held_out_and_no_prompt_goes_without(count, prompts):
    part = drawn_part(replace(RECIPE, num_images=count, prompts=tuple(f"hat {i}" for i in range(prompts))))
    assert abs(float(part.held_out.double().mean()) - 0.2) < 0.11
    kept = {p for p, held in zip(part.prompts, part.held_out.tolist(), strict=True) if not held}
    assert len(kept) == prompts


def test_what_is_gone_is_named(parts, tmp_path):
    with pytest.raises(BadInput, match="were not kept, or were purged: give --data"):
        sources.load(f"generated:{tmp_path / 'nowhere'}")
    (tmp_path / "data.json").write_text('{"schema": 2}')
    with pytest.raises(BadInput, match="has schema 2; this version reads 1"):
        assembled.load(f"generated:{tmp_path}")
    unlabelled = build("plain", COLOUR, None)
    with pytest.raises(BadInput, match="plain has no class names or captions"):
        data_part(unlabelled, "{}")
