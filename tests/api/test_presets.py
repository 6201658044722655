"""Presets fill in what was not given, and nothing else."""

import json

import pytest
from tests.methods import _miniatures as miniatures

import erasediff
from erasediff import Concept
from erasediff.api.presets import LORA_RATE, PLACE, PRESETS
from erasediff.cli.main import main
from erasediff.data.targets import parse
from erasediff.data.wording import COMMON
from erasediff.errors import BadInput
from erasediff.families import FAMILIES, adopt
from erasediff.families.fresh_text import fresh_text
from erasediff.training.config import TrainingConfig
from erasediff.training.parameters import named

WORDED = [name for name in FAMILIES if "concept" in FAMILIES[name].targets]
PLAN = {"dry_run": True, "quiet": True, "num_forget_images": 12, "num_retain_images": 12}


@pytest.fixture(scope="module")
def pipeline():
    """A miniature to which every word of the presets is one token."""
    said = [*COMMON, *(p for preset in PRESETS.values() for p in (*preset.prompts, *preset.retain_prompts))]
    return fresh_text((1, 8, 8), [*said, "Rembrandt Monet hat"], seed=0, block_out_channels=(8, 16)).pipeline()


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_is_whole(name):
    preset = PRESETS[name]
    for family in WORDED:
        TrainingConfig(**preset.fields(family, {}))
    assert any(PLACE in p for p in preset.prompts) and preset.sources and preset.verified
    assert not any(PLACE in said for said in (preset.anchor, *preset.retain_prompts))
    assert len(set(preset.prompts)) == len(preset.prompts) and len(set(preset.retain_prompts)) > 4


@pytest.mark.parametrize("family", WORDED)
def test_every_model_has_the_weights_that_a_preset_trains(family):
    denoiser = adopt(miniatures.TEXT[family]()).denoiser
    for preset in PRESETS.values():
        fields = preset.fields(family, {})
        chosen = named(denoiser, fields["parameters"])
        assert fields.get("rank") is None or any(name.endswith("weight") for name in chosen)


@pytest.mark.parametrize("family", WORDED)
def test_what_was_given_goes_before(family):
    preset, given = PRESETS["style"], {"learning_rate": 3e-3, "parameters": "full", "seed": 7}
    assert given.items() <= preset.fields(family, given).items()
    assert preset.fields(family, {"rank": 4})["learning_rate"] == LORA_RATE
    assert preset.fields(family, {"rank": 4, "learning_rate": 0.5}) | {"rank": 4} == preset.fields(
        family, {"rank": 4, "learning_rate": 0.5}
    )


def test_the_plan_is_the_presets(pipeline):
    record = erasediff.erase(pipeline, "concept:Rembrandt", preset="style", **PLAN).record
    preset = PRESETS["style"]
    assert record["preset"] == "style" and record["training"]["parameters"] == "cross_attention"
    assert record["shown"]["anchors"] == {"concept:Rembrandt": preset.anchor}
    assert record["shown"]["meaning"]["concept:Rembrandt"] == [p.replace("{}", "Rembrandt") for p in preset.prompts]
    drawn = record["shown"]["drawn"]["retain"]["prompts"]
    assert set(drawn) >= {"a pencil drawing"} and not any("Rembrandt" in p for p in drawn)


def test_own_words_replace_those_of_the_preset(pipeline):
    own = Concept("Monet", anchor="a drawing", prompts=["a lily by Monet"])
    settings = {"learning_rate": 0.25, "max_train_steps": 3, "retain_prompts": ["a cup", "a dog"]}
    record = erasediff.erase(pipeline, own, preset="style", **settings, **PLAN).record
    assert record["shown"]["anchors"] == {"concept:Monet": "a drawing"}
    assert record["shown"]["meaning"]["concept:Monet"] == ["a lily by Monet"]
    assert {"a cup", "a dog"} <= set(record["shown"]["drawn"]["retain"]["prompts"])
    assert (record["training"]["learning_rate"], record["training"]["max_train_steps"]) == (0.25, 3)
    assert not any("watercolor" in p for p in record["shown"]["drawn"]["retain"]["prompts"])


def test_of_several_targets_only_concepts_are_told(pipeline):
    wanted = PRESETS["object"].shown([parse("concept:hat"), parse("class:dog")], by_data=True)
    assert wanted[0].anchor == "an object" and wanted[0].prompts is None and wanted[1] == parse("class:dog")


@pytest.mark.parametrize(("given", "rate"), [({}, 1e-5), ({"rank": 2}, 1e-4), ({"learning_rate": 0.5}, 0.5)])
def test_without_a_preset_the_rate_is_the_familys(pipeline, given, rate):
    record = erasediff.erase(pipeline, "concept:hat", anchor="a dog", **given, **PLAN).record
    assert record["training"]["learning_rate"] == pytest.approx(rate)


def test_refusals(pipeline, tmp_path, capsys):
    with pytest.raises(BadInput, match=r"preset 'stile' is unknown; did you mean style\?|preset 'stile' is unknown"):
        erasediff.erase(pipeline, "concept:hat", preset="stile", **PLAN)
    with pytest.raises(BadInput, match="says how a concept is asked for; give --target concept:TEXT"):
        PRESETS["style"].shown([parse("class:3")], by_data=True)
    with pytest.raises(BadInput, match=r"a preset|concept:"):
        erasediff.erase(pipeline, "class:3", preset="style", **PLAN)


def test_the_command_line_takes_and_lists_them(pipeline, tmp_path, capsys):
    from erasediff.families import adopt

    adopt(pipeline).save(tmp_path / "base")
    line = ["erase", str(tmp_path / "base"), "--target", "concept:hat", "--preset", "object", "--dry_run"]
    assert main([*line, "--learning_rate", "1e-3", "--output_dir", str(tmp_path / "run")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["training"]["learning_rate"] == 1e-3 and record["training"]["parameters"] == "no_cross_attention"
    assert main(["list", "presets", "--format", "json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == set(PRESETS)
