"""The experiment of memory in small: every model runs, a second call goes on, and the estimates need no weights."""

import json
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "memory"
# Weights of the published models, as their cards and papers give them, in millions.
PUBLISHED = {"sd15": 860, "sdxl": 2567, "sd3": 2028, "flux": 11901}


@pytest.fixture
def modules(script):
    return script("experiments/memory", "measure", "models")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_shapes_have_as_many_weights_as_the_published_models(modules, name):
    made = modules[1].shapes_only(name)
    assert {p.device.type for p in made.parameters()} == {"meta"}
    assert round(sum(p.numel() for p in made.parameters()) / 1e6) == PUBLISHED[name]


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch's, on the CPU under bf16
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_model_runs_in_small(modules, name, monkeypatch):
    monkeypatch.setattr(modules[0], "STEPS", 1)
    for case in ("lora, int8", "full"):
        found = modules[0].entry(name, case, tiny=True)
        assert found["finite"] and found["seconds_per_step"] > 0 and found["peak_bytes"] is None
        assert found["estimate"]["total"] > 0


def test_the_estimate_is_that_of_the_model_that_runs(modules):
    measure, models = modules
    made = models.model("sd15", "cpu", tiny=True)
    pairs = measure.pairs_of(made, torch.device("cpu"))
    pair, said = pairs.at(0), measure.estimated("sd15", "full", tiny=True)
    tensors = [t for side in (pair.retain, pair.forget) for t in (side.images, side.encoded)]
    assert said.batch == sum(t.numel() * 4 for t in tensors)
    assert said.denoiser == sum(p.numel() * 4 for p in made.denoiser.parameters())
    assert said.text == sum(t.numel() * 4 for t in made.table.embeddings.values())


def test_a_second_call_goes_on_and_the_time_is_kept_to(modules, monkeypatch, tmp_path):
    measure, asked = modules[0], []
    made = lambda name, case, tiny: asked.append((name, case)) or {"model": name, "case": case}  # noqa: E731
    monkeypatch.setattr(measure, "entry", made)
    output = tmp_path / "memory.json"
    measure.run(output, ["sd15"], ["lora"], tiny=True, seconds=60)
    measure.run(output, ["sd15"], ["lora", "full"], tiny=True, seconds=60)
    assert asked == [("sd15", "lora"), ("sd15", "full")]
    measure.run(output, ["sdxl"], ["lora"], tiny=True, seconds=-1)
    assert len(json.loads(output.read_text())["entries"]) == len(asked) == 2
    with pytest.raises(measure.BadInput, match="holds shrunken models"):
        measure.run(output, ["sd15"], ["lora"], tiny=False, seconds=60)


def test_the_table_of_the_docs_is_what_the_command_prints(modules):
    measure, models = modules
    page = (FOLDER.parents[1] / "docs" / "memory.md").read_text()
    assert measure.estimates(list(models.SHAPES), list(measure.CASES)) in page
