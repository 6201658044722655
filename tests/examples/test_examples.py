"""The examples run as they stand, with miniatures in the place of the models that they name."""

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

import erasediff
from erasediff.api.presets import PRESETS
from erasediff.cli.main import main
from erasediff.data.wording import COMMON
from erasediff.families.fresh_text import fresh_text
from erasediff.families.tiny import TINY
from tests.docs.markdown import ROOT, blocks

EXAMPLES = ROOT / "examples"
PAGES = sorted(p for p in EXAMPLES.glob("*.md") if p.name != "README.md")
HUB = re.compile(r"\b(?:stabilityai|stable-diffusion-v1-5|black-forest-labs|facebook|Qwen|Tongyi-MAI)/[\w.-]+")
SAID = "Van Gogh Paul Gauguin Cezanne Jane Roe parachute golf ball the sky a lawn starry night"
FEW = {
    "erase": "--max_train_steps 2 --train_batch_size 2 --gradient_accumulation_steps 1 --checkpointing_steps 0 --quiet",
    "train": "--max_train_steps 2 --quiet",
    "audit": "--attacks none --quiet",
}
DRAWN = "--num_forget_images 10 --num_retain_images 24 --num_inference_steps 2"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A text-to-image model to which every word of the examples is a token, and a class-conditional transformer."""
    place = tmp_path_factory.mktemp("models")
    said = [*COMMON, SAID, *(t for p in PRESETS.values() for t in (*p.prompts, *p.retain_prompts, p.anchor))]
    fresh_text((3, 8, 8), said, seed=0, block_out_channels=(8, 16)).save(place / "worded")
    TINY["dit"]().save(place / "dit")
    return place


@pytest.fixture
def house(models, tmp_path, monkeypatch, squares):
    """What the pages speak of: folders of photos, labelled images, a base model, a request."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "people"):
        (tmp_path / folder).mkdir()
        for i in range(12):
            pixels = np.random.default_rng(i).integers(0, 256, (12, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    labels = squares.labels.numpy()
    np.savez(tmp_path / "imagenet-256.npz", images=squares.images[:, 0].numpy(), labels=labels)
    (tmp_path / "request.txt").write_text("12\n41\n77\n")
    return tmp_path


def run(line, models):
    """One command of a page, small."""
    line = HUB.sub(lambda m: str(models / ("dit" if "DiT" in m[0] else "worded")), line).replace("class:207", "class:1")
    words = shlex.split(line)
    assert words[0] == "erasediff"
    verb, more = words[1], shlex.split(FEW.get(words[1], ""))
    draws = verb == "erase" and "concept:" in line and "--retain_images" not in line and "--method uce" not in line
    return main([*words[1:], *more, *(shlex.split(DRAWN) if draws else [])])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
@pytest.mark.filterwarnings("ignore:.*resized")
def test_a_page_runs_from_its_first_block_to_its_last(page, models, house, capsys):
    if "runs/base" in page.read_text():
        erasediff.train("digits", output_dir="runs/base", max_train_steps=2, quiet=True)
    for block in blocks(page):
        if block.language == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                assert run(line, models) == 0, f"{block}: {line}\n{capsys.readouterr().err}"
        elif block.language == "python":
            text = HUB.sub(str(models / "worded"), block.text)
            exec(compile(text, str(block), "exec"), {})  # noqa: S102


def test_every_page_is_listed():
    index = (EXAMPLES / "README.md").read_text()
    listed = set(re.findall(r"\]\(([\w.-]+)\)", index)) - {"../experiments"}
    assert listed == {p.name for p in EXAMPLES.iterdir()} - {"README.md"}


def test_the_notebook_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = json.loads((EXAMPLES / "first-steps.ipynb").read_text())["cells"]
    space = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        text = re.sub(r"STEPS = \d+", "STEPS = 12", "".join(cell["source"]))
        # Pictures are for people: what is drawn is looked at, not how.
        text = re.sub(r"(?m)^show\((.*), (\"[^\"]*\")\)$", r"assert (\1).isfinite().all(), \2", text)
        exec(compile(text, f"cell {number}", "exec"), space)  # noqa: S102
        assert not cell["outputs"], "outputs are not kept"
    assert space["done"].verdict.level and space["image"].size == (8, 8)
