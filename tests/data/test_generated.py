"""Sets of drawn images: a function of their recipe, kept as plain files, gone on with, recognised."""

import json
from dataclasses import replace

import pytest
import torch

from erasediff.data import generated, sources
from erasediff.data.generated import Generation, Recipe
from erasediff.errors import BadInput

RECIPE = Recipe(
    name="forget",
    prompts=("a hat", "one hat", "the hat"),
    num_images=11,
    seed=3,
    guidance_scale=7.5,
    num_inference_steps=2,
    image_shape=(3, 8, 8),
    model="m",
)


def draw(prompts, seeds):
    """Images that tell by their pixels of what they were drawn."""
    drawn = [
        torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(seed + len(prompt)))
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    return torch.stack(drawn).to(torch.uint8)


def made(folder, recipe=RECIPE, batch=4):
    generated.prepare(folder, recipe)
    sizes = list(generated.fill(folder, recipe, generated.missing(folder, recipe), draw, batch=batch))
    generated.finish(folder, recipe)
    return sizes


def test_a_set_is_kept_bit_by_bit_and_reads_as_a_folder_of_captioned_images(tmp_path):
    assert made(tmp_path / "a") == [4, 4, 3]
    images = generated.read(tmp_path / "a", RECIPE)
    expected = draw([RECIPE.prompt(r) for r in range(11)], [RECIPE.seed_of(r) for r in range(11)])
    assert torch.equal(images, expected)
    plain = sources.load(str(tmp_path / "a"))
    assert torch.equal(plain.images, images)
    assert [plain.class_names[c] for c in plain.labels] == [RECIPE.prompt(r) for r in range(11)]
    assert generated.recipe_in(tmp_path / "a") == RECIPE


@pytest.mark.parametrize("batch", [1, 3, 11])
def test_the_number_drawn_at_once_does_not_matter(tmp_path, batch):
    made(tmp_path / "a")
    made(tmp_path / "b", batch=batch)
    assert (tmp_path / "a" / "set.json").read_text() == (tmp_path / "b" / "set.json").read_text()


def test_what_is_missing_is_drawn_and_nothing_else(tmp_path):
    folder = tmp_path / "a"
    generated.prepare(folder, RECIPE)
    next(generated.fill(folder, RECIPE, generated.missing(folder, RECIPE), draw, batch=4))
    assert generated.missing(folder, RECIPE) == list(range(4, 11))
    assert not generated.complete(folder, RECIPE)
    generated.prepare(folder, RECIPE)  # nothing that is there goes
    assert generated.missing(folder, RECIPE) == list(range(4, 11))
    made(folder)
    assert generated.complete(folder, RECIPE)
    (folder / generated.file_name(5)).unlink()
    assert not generated.complete(folder, RECIPE)
    assert generated.missing(folder, RECIPE) == [5]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 4},
        {"prompts": ("a hat", "the hat", "one hat")},
        {"num_images": 12},
        {"guidance_scale": 1.0},
        {"num_inference_steps": 3},
        {"model": "n"},
        {"image_shape": (1, 8, 8)},
    ],
)
def test_another_recipe_is_another_set(tmp_path, other):
    made(tmp_path / "a")
    changed = replace(RECIPE, **other)
    assert changed.key != RECIPE.key
    assert generated.missing(tmp_path / "a", changed) == list(range(changed.num_images))
    generated.prepare(tmp_path / "a", changed)
    assert not list((tmp_path / "a").glob("*.png"))


def test_a_whole_set_is_taken_over_from_elsewhere_and_half_a_set_is_not(tmp_path):
    made(tmp_path / "a")
    generated.prepare(tmp_path / "b", RECIPE, tmp_path / "a")
    assert generated.complete(tmp_path / "b", RECIPE)
    assert torch.equal(generated.read(tmp_path / "a", RECIPE), generated.read(tmp_path / "b", RECIPE))
    (tmp_path / "a" / generated.file_name(0)).unlink()
    generated.prepare(tmp_path / "c", RECIPE, tmp_path / "a")
    assert len(generated.missing(tmp_path / "c", RECIPE)) == 11


def test_seeds_differ_by_image_and_by_side():
    other = replace(RECIPE, name="retain")
    seeds = {r.seed_of(row) for r in (RECIPE, other) for row in range(11)}
    assert len(seeds) == 22


def test_a_broken_image_is_named(tmp_path):
    made(tmp_path / "a")
    (tmp_path / "a" / generated.file_name(7)).write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"drawn image .*000007\.png cannot be read"):
        generated.read(tmp_path / "a", RECIPE)


@pytest.mark.parametrize("content", ["[]", '{"schema": 9}', '{"schema": 1, "prompts": ["a"]}'])
def test_what_is_no_set_says_so(tmp_path, content):
    (tmp_path / "set.json").write_text(content)
    with pytest.raises(BadInput, match="is not the record of a set"):
        generated.recipe_in(tmp_path)


def test_sizes_that_cannot_be(tmp_path):
    with pytest.raises(BadInput, match="num_forget_images 2 is less than the 3 prompts"):
        replace(RECIPE, num_images=2)
    with pytest.raises(BadInput, match="images of 4 channels cannot be kept as PNG; 1, 3 can"):
        replace(RECIPE, image_shape=(4, 8, 8))
    for name in ("num_forget_images", "num_retain_images", "num_inference_steps", "sample_batch_size"):
        with pytest.raises(BadInput, match=f"{name} must be at least 1, got 0"):
            Generation(**{name: 0})


def test_metadata_says_prompt_and_seed(tmp_path):
    made(tmp_path / "a")
    rows = [json.loads(line) for line in (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()]
    assert rows[4] == {"file_name": "000004.png", "text": "one hat", "seed": RECIPE.seed_of(4)}
