"""What shows a concept: prompts that the model draws, own folders, data, or all of them; and what is kept."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tests.families import _tiny_text

import erasediff
from erasediff import Class, Concept
from erasediff.data import sources
from erasediff.data.images import build
from erasediff.errors import BadInput, Interrupted

FEW = {"max_train_steps": 2, "train_batch_size": 4, "checkpointing_steps": 0, "quiet": True}
DRAWN = {"num_forget_images": 10, "num_retain_images": 20, "num_inference_steps": 2, "sample_batch_size": 3}
ALL = {**FEW, **DRAWN}


@pytest.fixture(scope="module")
def pipeline():
    return _tiny_text.stable_diffusion()


@pytest.fixture(scope="module")
def base(pipeline, tmp_path_factory):
    """The miniature as a directory."""
    from erasediff.families import adopt

    place = tmp_path_factory.mktemp("base") / "model"
    adopt(pipeline).save(place)
    return place


@pytest.fixture(scope="module")
def run(pipeline, tmp_path_factory):
    """An erase of prompts only."""
    place = tmp_path_factory.mktemp("only") / "run"
    return erasediff.erase(pipeline, "concept:hat", anchor="a cap", output_dir=place, **ALL)


@pytest.fixture
def photos(tmp_path):
    """Seven photographs of other sizes and modes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        pixels = rng.integers(0, 256, (20 + i, 33, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert("L" if i == 3 else "RGB").save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def captioned():
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    return build("captioned", images, np.arange(40) % 4, class_names=["a red hat", "a dog", "a chair", "two cats"])


def read_json(path):
    return json.loads(path.read_text())


def job_of(monkeypatch, *given, **more):
    """What the loop is handed, without running it."""
    from erasediff.api import launch

    seen = []

    class Seen(Exception):
        pass

    def start(model, method, pairs, config, **rest):
        seen.append((model, pairs))
        raise Seen

    with monkeypatch.context() as patch, pytest.raises(Seen):
        patch.setattr(launch, "start", start)
        erasediff.erase(*given, **{**ALL, **more})
    return seen[0]


def prompts_of(pairs, side):
    labels = pairs.data.labels[getattr(pairs, side).indices]
    return {pairs.data.class_names[label] for label in labels.tolist()}


def test_of_prompts_alone_the_model_draws_both_sides_and_keeps_them(run, pipeline):
    place = run.directory / "generated"
    forget, retain = (read_json(place / name / "set.json") for name in ("forget", "retain"))
    assert forget["complete"] and forget["num_images"] == 10
    assert all("hat" in prompt for prompt in forget["prompts"])
    assert {"a cap", ""} <= set(retain["prompts"])
    assert not any("hat" in prompt for prompt in retain["prompts"])
    rows = [json.loads(line) for line in (place / "forget" / "metadata.jsonl").read_text().splitlines()]
    assert [r["text"] for r in rows[: len(forget["prompts"])]] == forget["prompts"]
    assert len({r["seed"] for r in rows}) == 10
    assert len(list((place / "forget").glob("*.png"))) == 10
    record = read_json(run.directory / "run.json")
    assert record["target"] == ["concept:hat"]
    assert record["data"]["spec"] == f"generated:{place}"
    assert record["asked"] == {"prompt_template": "{}", "anchor": "a cap"}
    assert record["plan"]["generate"]["forget"] == {"images": 10, "to_draw": 10, "prompts": forget["prompts"]}
    before, after = pipeline.unet.state_dict(), run.pipeline.unet.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_drawn_image_is_what_plain_diffusers_draws_of_its_prompt_and_seed(run, pipeline):
    """The slow obvious oracle: the pipeline itself, from the noise of the recorded seed."""
    from diffusers import DPMSolverMultistepScheduler

    folder = run.directory / "generated" / "forget"
    row = json.loads((folder / "metadata.jsonl").read_text().splitlines()[4])
    plain = _tiny_text.stable_diffusion()
    plain.scheduler = DPMSolverMultistepScheduler.from_config(plain.scheduler.config)
    plain.set_progress_bar_config(disable=True)
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(row["seed"]))
    drawn = plain(row["text"], latents=noise[None], num_inference_steps=2, guidance_scale=7.5, output_type="np").images
    expected = (torch.tensor(drawn[0]) * 255).round()
    found = torch.tensor(np.asarray(Image.open(folder / row["file_name"]))).float()
    assert (found - expected).abs().max() <= 1


def test_what_was_put_together_is_read_back_as_data(run):
    spec = read_json(run.directory / "run.json")["data"]["spec"]
    data = sources.load(spec)
    assert len(data) == 30
    assert {data.class_names[c] for c in data.meant["concept:hat"]} == {p for p in data.class_names if "hat" in p}
    assert data.class_names[-1] == ""
    again = sources.load(spec)
    assert torch.equal(data.images, again.images)
    forget = sources.load(str(run.directory / "generated" / "forget"))  # a set is a folder of captioned images
    assert torch.equal(forget.images, data.images[:10])


def test_labels_are_the_rows_of_the_table_and_the_null_prompt_is_the_null_condition(pipeline, monkeypatch):
    model, pairs = job_of(monkeypatch, pipeline, "concept:hat", anchor="a cap")
    names = pairs.data.class_names
    assert model.table.prompts == names
    assert model.conditions.null_label == len(names) - 1 == model.conditions.num_classes
    assert names[model.conditions.anchor] == "a cap"
    assert all("hat" in p for p in prompts_of(pairs, "forget"))
    assert "" in prompts_of(pairs, "retain")


def test_a_dry_run_says_what_would_be_drawn_and_draws_nothing(pipeline, tmp_path, monkeypatch):
    from erasediff.api import drawing

    monkeypatch.setattr(drawing, "sample", None)
    found = erasediff.erase(pipeline, "concept:hat", output_dir=tmp_path / "x", dry_run=True, **ALL)
    plan = found.record["plan"]
    assert plan["generate"]["retain"]["to_draw"] == 20
    assert "an image of hat" in plan["generate"]["forget"]["prompts"]
    assert plan["forget_samples"] + plan["retain_samples"] < 30  # a fifth of each class is held out
    assert "retain prompts chosen by" in plan["notes"][0]
    assert not (tmp_path / "x").exists()


def test_nothing_is_drawn_before_everything_was_refused(pipeline, tmp_path, monkeypatch):
    from erasediff.api import drawing

    monkeypatch.setattr(drawing, "sample", None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("x")
    for wrong, said in (
        ({"parameters": "nope.*"}, "names no weight"),
        ({"output_dir": tmp_path / "full"}, "not empty"),
        ({"report_to": "nonsense"}, "report_to"),
        ({"method": "grad_diff", "slack_tolerance": 0.1}, "slack_tolerance"),
    ):
        with pytest.raises(BadInput, match=said):
            erasediff.erase(pipeline, "concept:hat", **{"output_dir": tmp_path / "x", **ALL, **wrong})
        assert not (tmp_path / "x").exists()


def test_drawing_that_was_stopped_goes_on_where_it_was(pipeline, run, tmp_path, monkeypatch):
    from erasediff.api import drawing

    sample, calls = drawing.sample, []

    def stopping(*given, **more):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(*given, **more)

    asked = {"anchor": "a cap", "output_dir": tmp_path / "run", **ALL}
    monkeypatch.setattr(drawing, "sample", stopping)
    with pytest.raises(Interrupted, match=r"interrupted while drawing images; what was drawn is kept in .*generated"):
        erasediff.erase(pipeline, "concept:hat", **asked)
    there = tmp_path / "run" / "generated" / "forget"
    assert len(list(there.glob("*.png"))) == 6
    planned = erasediff.erase(pipeline, "concept:hat", dry_run=True, **asked)
    assert planned.record["plan"]["generate"]["forget"]["to_draw"] == 4
    monkeypatch.setattr(drawing, "sample", sample)
    erasediff.erase(pipeline, "concept:hat", resume_from_checkpoint="latest", **asked)
    for name in ("forget", "retain"):
        unbroken = read_json(run.directory / "generated" / name / "set.json")["images_sha256"]
        assert read_json(tmp_path / "run" / "generated" / name / "set.json")["images_sha256"] == unbroken


def test_a_resumed_run_draws_nothing_again(pipeline, tmp_path, monkeypatch):
    from erasediff.api import drawing

    asked = {"output_dir": tmp_path / "run", **ALL, "checkpointing_steps": 1}
    erasediff.erase(pipeline, "concept:hat", **asked)
    monkeypatch.setattr(drawing, "sample", None)
    more = erasediff.erase(pipeline, "concept:hat", resume_from_checkpoint="latest", **{**asked, "max_train_steps": 3})
    assert more.record["steps"] == 3
    with pytest.raises(BadInput, match=r"cannot resume .*: its data was"):
        erasediff.erase(pipeline, "concept:hat", resume_from_checkpoint="latest", **{**asked, "num_forget_images": 11})


def test_images_of_another_run_are_taken_over_where_they_are_the_same(pipeline, run, tmp_path, monkeypatch):
    from erasediff.api import drawing

    monkeypatch.setattr(drawing, "sample", None)
    asked = {"anchor": "a cap", "generated": run.directory, **ALL}
    second = erasediff.erase(pipeline, "concept:hat", output_dir=tmp_path / "b", method="salun", **asked)
    assert second.record["plan"]["generate"]["retain"]["to_draw"] == 0
    assert sorted(p.name for p in (tmp_path / "b" / "generated").iterdir()) == ["data.json", "forget", "retain"]
    with pytest.raises(BadInput, match=r"can be reused: forget: seed was 0, now 1"):
        erasediff.erase(pipeline, "concept:hat", output_dir=tmp_path / "c", seed=1, **asked)


def test_own_photographs_are_brought_to_the_size_of_the_model(pipeline, photos, monkeypatch):
    with pytest.warns(UserWarning, match="7 of 7 images in .*photos were resized and centre-cropped to 16 x 16"):
        _, pairs = job_of(monkeypatch, pipeline, Concept("hat", images=photos, prompts=["my hat", "one hat"]))
    assert pairs.data.image_shape == (3, 16, 16)
    assert prompts_of(pairs, "forget") == {"my hat", "one hat"}
    assert len(pairs.forget.indices) == 6  # the fifth is held out
    assert len(pairs.data) == 7 + 20  # the retain set is drawn


def test_captions_of_own_images_are_their_prompts(pipeline, photos, monkeypatch):
    rows = [{"file_name": f"{i}.png", "text": f"hat {i % 2}"} for i in range(4)]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match="4 of 4"):
        _, pairs = job_of(monkeypatch, pipeline, "concept:hat", images=photos, retain_prompts=["a dog", "a cat"])
    assert prompts_of(pairs, "forget") == {"hat 0", "hat 1"}
    assert prompts_of(pairs, "retain") == {"a dog", "a cat"}


def test_a_data_folder_of_other_sizes_is_brought_to_the_size_of_the_model(pipeline, photos, small_audit, tmp_path):
    rows = [{"file_name": f"{i}.png", "text": "a hat" if i % 2 else "a dog"} for i in range(7)]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match="7 of 7 images in .*photos were resized and centre-cropped to 16 x 16"):
        run = erasediff.erase(pipeline, "concept:hat", str(photos), output_dir=tmp_path / "run", **FEW)
    assert run.record["plan"] == run.record["plan"] | {"forget_samples": 3, "retain_samples": 4}


def test_nothing_is_drawn_where_both_sides_are_own_images(pipeline, photos, tmp_path, monkeypatch):
    from erasediff.api import drawing

    kept = tmp_path / "kept"
    shutil.copytree(photos, kept)
    monkeypatch.setattr(drawing, "sample", None)
    with pytest.warns(UserWarning, match="resized"):
        _, pairs = job_of(monkeypatch, pipeline, "concept:hat", images=photos, retain_images=kept, anchor="a cap")
    assert prompts_of(pairs, "retain") == {"a cap"}
    with pytest.warns(UserWarning, match="resized"):
        model, pairs = job_of(monkeypatch, pipeline, "concept:hat", images=photos, retain_images=kept)
    assert prompts_of(pairs, "retain") == {""}
    assert set(pairs.data.labels[pairs.retain.indices].tolist()) == {model.conditions.null_label}


def test_an_attribute_is_prompts_with_it_against_prompts_without(pipeline, tmp_path, monkeypatch):
    (tmp_path / "with.txt").write_text("a cat smile\na dog smile\n")
    _, pairs = job_of(
        monkeypatch, pipeline, "concept:smile", prompts=tmp_path / "with.txt", retain_prompts=["a cat", "a dog"]
    )
    assert prompts_of(pairs, "forget") == {"a cat smile", "a dog smile"}
    assert prompts_of(pairs, "retain") == {"a cat", "a dog"}


def test_several_concepts_are_each_led_to_their_own_anchor(pipeline, monkeypatch):
    wanted = [Concept("hat", anchor="a cap"), Concept("dog", anchor="a cat")]
    model, pairs = job_of(monkeypatch, pipeline, wanted)
    names, conditions = pairs.data.class_names, model.conditions
    for label in pairs.data.labels[pairs.forget.indices].tolist():
        led = names[int(conditions.anchored(torch.tensor([label])))]
        assert led == ("a cap" if "hat" in names[label] else "a cat")
    assert {"a cap", "a cat"} <= prompts_of(pairs, "retain")


def test_concept_class_and_samples_are_mixed_with_data(pipeline, captioned, tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("2\n6\n")
    wanted = [Concept("owl", prompts=["an owl"]), Class("a dog"), f"samples:{tmp_path / 'list.txt'}", "concept:hat"]
    model, pairs = job_of(monkeypatch, pipeline, wanted, data=captioned, prompt_template="my {}")
    assert pairs.data.class_names[:4] == ("my a red hat", "my a dog", "my a chair", "my two cats")
    assert prompts_of(pairs, "forget") == {"an owl", "my a dog", "my a chair", "my a red hat"}
    assert {2, 6} <= set(pairs.forget.indices.tolist())
    assert prompts_of(pairs, "retain") == {"my a chair", "my two cats"}
    assert model.conditions.excluded == (0, 1, 4)


def test_one_prompts_file_serves_several_concepts(pipeline, tmp_path, monkeypatch):
    (tmp_path / "both.txt").write_text("a hat\none dog\nthe hat\n")
    asked = {"prompts": tmp_path / "both.txt"}
    _, pairs = job_of(monkeypatch, pipeline, ["concept:hat", "concept:dog"], **asked)
    assert {k: {pairs.data.class_names[c] for c in v} for k, v in pairs.data.meant.items()} == {
        "concept:hat": {"a hat", "the hat"},
        "concept:dog": {"one dog"},
    }
    with pytest.raises(BadInput, match=r"the line 'the hat' says none of them|the line 'a hat' says none"):
        erasediff.erase(pipeline, ["concept:cat", "concept:dog"], **asked, **ALL)


def test_one_concept_after_another_and_both_can_be_audited(run, small_audit, tmp_path):
    second = erasediff.erase(run.directory, "concept:cat", output_dir=tmp_path / "second", **ALL)
    assert (second.record["target"], second.record["gone"]) == (["concept:cat"], ["concept:hat"])
    retain = read_json(tmp_path / "second" / "generated" / "retain" / "set.json")["prompts"]
    assert not any("hat" in p or "cat" in p for p in retain)
    found = erasediff.audit(tmp_path / "second", attacks=["membership"], quiet=True)
    assert found.result.target == "concept:cat"


def test_an_audit_finds_the_runs_own_images_even_where_the_run_has_moved(run, pipeline, small_audit, tmp_path):
    shutil.copytree(run.directory, tmp_path / "moved")
    asked = {"base": pipeline, "attacks": ["membership"], "quiet": True}
    found = erasediff.audit(tmp_path / "moved", output_dir=tmp_path / "a", **asked)
    assert found.result.target == "concept:hat"
    assert found.result.find("forget_rate").n == 20
    kept = read_json(run.directory / "generated" / "retain" / "set.json")["prompts"]
    assert found.result.find("retain_accuracy").n == 6 * (len(kept) - 1)  # the null prompt is no class
    assert str(tmp_path / "moved") in found.result.setting["data"]["spec"]
    from erasediff.api.purge import purge

    removed, notes = purge(tmp_path / "moved")
    assert "generated" in [p.name for p in removed]
    assert not any("generated" in note for note in notes)
    with pytest.raises(BadInput, match="were not kept, or were purged: give --data"):
        erasediff.audit(tmp_path / "moved", **asked)


BAD = [
    ({"target": Concept("hat"), "prompts": "nowhere.txt"}, "file nowhere.txt does not exist"),
    ({"target": "concept:hat", "prompts": "EMPTY"}, "is empty; give one prompt a line"),
    ({"target": Concept("hat", prompts=[])}, "prompts of concept:hat: holds no prompt"),
    ({"target": Concept("hat", prompts=["a hat that is far too long"])}, r"has 2\d tokens .* reads 16 and would cut"),
    ({"target": "concept:hat", "images": "nowhere"}, "image folder nowhere does not exist"),
    ({"target": "concept:hat", "images": ["a", "b"]}, r"images is given 2 times for 1 concepts \(concept:hat\)"),
    ({"target": ["concept:hat", "concept:dog"], "anchor": ["a", "b", "c"]}, "anchor is given 3 times for 2 concepts"),
    ({"target": [Concept("hat", anchor="a"), "concept:dog"]}, "and concept:dog has none; give one for each"),
    ({"target": "concept:hat", "anchor": "The HAT"}, "is the concept itself"),
    ({"target": "concept:hat", "retain_prompts": ["hat", "dog"]}, "'hat' is to be retained and to be forgotten"),
    ({"target": "concept:hat", "num_forget_images": 2}, "num_forget_images 2 is less than the 5 prompts"),
    ({"target": "concept:hat", "guidance_scale": -1.0}, "guidance_scale must not be negative"),
    ({"target": "concept:hat", "generated": "nowhere"}, "no images of nowhere can be reused: nowhere/forget does not"),
    ({"target": "concept:hat", "prompt_template": "a photo"}, "needs {} once"),
    ({"target": "class:hat", "prompts": "x.txt"}, "prompts belongs to a target of the form concept:TEXT"),
]


@pytest.mark.parametrize(("given", "said"), BAD)
def test_bad_concepts_are_refused_before_anything_is_written(pipeline, tmp_path, given, said):
    (tmp_path / "empty.txt").write_text("\n \n")
    given = {k: tmp_path / "empty.txt" if v == "EMPTY" else v for k, v in given.items()}
    with pytest.raises(BadInput, match=said):
        erasediff.erase(pipeline, output_dir=tmp_path / "run", **{**ALL, **given})
    assert not (tmp_path / "run").exists()


def test_wishes_that_would_come_to_nothing_are_refused(pipeline, captioned, squares):
    from erasediff.families.tiny import TINY

    with pytest.raises(BadInput, match="no data given"):
        erasediff.erase(pipeline, "class:hat", **FEW)
    with pytest.raises(BadInput, match="num_forget_images would change nothing"):
        erasediff.erase(pipeline, "concept:hat", captioned, num_forget_images=10, **FEW)
    with pytest.raises(BadInput, match="family unet2d is asked by class number, not in words"):
        erasediff.erase(TINY["unet2d"]().pipeline(), "class:1", squares, retain_prompts=["a"], **FEW)
    with pytest.raises(BadInput, match=r"family unet2d takes class:\.\.\., samples:\.\.\. only"):
        erasediff.erase(TINY["unet2d"]().pipeline(), "concept:1", **FEW)  # without DATA as well
