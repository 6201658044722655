"""Methods without steps through the interface: a run directory without a loop, and a start for other methods."""

import json

import pytest
import torch
from tests.methods import _miniatures as miniatures

import erasediff
from erasediff.api.editing import concepts, replaced
from erasediff.cli.main import main
from erasediff.data.targets import Class, Concept
from erasediff.errors import BadInput
from erasediff.families import adopt
from erasediff.families.tiny import TINY
from erasediff.methods.base import Concepts
from erasediff.methods.esd import ESD
from erasediff.methods.uce import UCE

FEW = {"max_train_steps": 2, "train_batch_size": 4, "checkpointing_steps": 1, "quiet": True}
SD = "stable_diffusion"


@pytest.fixture
def scene(squares):
    return miniatures.pipeline(SD), "concept:hat", miniatures.data(SD, squares)


def unet(run):
    return run.pipeline.unet.state_dict()


def differing(one, other):
    return {n for n in one if not torch.equal(one[n], other[n])}


def test_an_edit_writes_a_run_directory_that_loads_with_plain_diffusers(scene, tmp_path):
    run = erasediff.erase(*scene, "uce", prompt_template="my {}", anchor="a cap", output_dir=tmp_path / "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["method"] == {"name": "uce", "fields": record["method"]["fields"], "paper": "arXiv:2308.14761"}
    assert record["method"]["fields"]["towards"] == "auto"
    assert (record["status"], record["steps"], record["stopped"]["reason"]) == ("completed", 0, "closed_form")
    assert record["cost"]["forward_equivalents"] == 0 and record["cost"]["seconds"] > 0
    # The prompt of the class, the target's own words, and these as they are asked.
    assert record["plan"]["erased"] == ["my a red hat", "hat", "my hat"]
    # The other classes, the empty prompt, and the erased prompts with the anchor in their place.
    assert record["plan"]["preserved"] == 3 + 1 + len({"my a red cap", "my cap", "a cap"})
    assert record["weights"]["unet/diffusion_pytorch_model.safetensors"]
    assert "Unified Concept Editing" in (tmp_path / "run/README.md").read_text()
    assert not (tmp_path / "run/checkpoints").exists()
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel.from_pretrained(tmp_path / "run/model/unet").state_dict()
    assert not differing(plain, unet(run))
    assert differing(plain, scene[0].unet.state_dict()) == {
        m.parameter for m in run.model.text_maps(run.model.denoiser)
    }
    assert run.model.class_names == ("my a cat", "my a red hat", "my a chair", "my two dogs")


@pytest.mark.slow
def test_it_is_audited_and_erased_again_like_any_run(scene, small_audit, tmp_path):
    pipeline, target, data = scene
    erasediff.erase(pipeline, target, data, "uce", output_dir=tmp_path / "run")
    asked = {"data": data, "base": pipeline, "attacks": ["membership"], "quiet": True}
    assert erasediff.audit(tmp_path / "run", **asked).result.find("forget_rate").n == 20
    again = erasediff.erase(tmp_path / "run", "concept:chair", data, UCE(towards="unconditional"))
    assert again.record["gone"] == ["concept:hat"]


def test_dry_run_of_an_edit(scene, tmp_path):
    run = erasediff.erase(*scene, "uce", output_dir=tmp_path / "run", dry_run=True)
    assert run.record["status"] == "planned" and run.record["plan"]["erased"]
    assert not (tmp_path / "run").exists()
    assert not differing(unet(run), scene[0].unet.state_dict())


@pytest.mark.parametrize("target", [Concept("hat"), Class("a red hat")])
def test_the_command_line(scene, squares, tmp_path, capsys, target):
    adopt(scene[0]).save(tmp_path / "base")
    folder = tmp_path / "photos"
    folder.mkdir()
    from PIL import Image

    data = scene[2]
    lines = []
    for number, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": data.class_names[label]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    argv = ["erase", str(tmp_path / "base"), "--target", str(target), "--data", str(folder), "--quiet"]
    assert main([*argv, "--method", "uce", "--method.ridge", "1e-4", "--output_dir", str(tmp_path / "a")]) == 0
    assert "0 steps, 8 weight matrices were edited in closed form" in capsys.readouterr().out
    few = ["--max_train_steps", "1", "--train_batch_size", "2"]
    started = [*argv, "--method", "esd", "--method.x_t", "data", "--init", "uce", *few]
    assert main([*started, "--output_dir", str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "b/run.json").read_text())["init"]["name"] == "uce"
    for flags, said in (
        (["--resume_from_checkpoint", "latest"], "resume_from_checkpoint means nothing to method uce"),
        (["--retain_budget", "0.1"], "retain_budget"),
        (["--init", "uce"], "init means nothing to method uce"),
        (["--parameters", "attention"], "parameters 'attention' cannot be kept to"),
    ):
        assert main([*argv, "--method", "uce", *flags, "--output_dir", str(tmp_path / "c")]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"anchor": "hat"}, "the anchor of concept:hat is the concept itself"),
        ({"anchor": "a red hat"}, "the anchor is the target itself"),
        ({"anchor": "a small hat"}, "the anchor 'a small hat' says what is to be erased"),
        ({"slack_tolerance": 0.1}, "slack_tolerance"),
        ({"method": "fine_tune", "init": "esd"}, "init esd takes steps of its own; a run can start from: uce"),
        ({"method": "fine_tune", "init": UCE(towards="anchor")}, "give --anchor TEXT"),
    ],
)
def test_what_an_edit_cannot_be_asked(scene, given, said):
    asked = {"method": "uce", "quiet": True, **given}
    with pytest.raises(BadInput, match=said):
        erasediff.erase(*scene, **asked)


def test_a_model_asked_by_class_is_neither_edited_nor_started_from_an_edit(squares):
    model = TINY["unet2d"]().pipeline()
    for given in ({"method": "uce"}, {"init": "uce"}):
        with pytest.raises(BadInput, match="method uce edits the maps that read text, and a model of family unet2d"):
            erasediff.erase(model, "class:1", squares, quiet=True, **given)


def test_a_run_starts_from_the_edit_and_its_frozen_model_is_the_original(scene):
    edited = unet(erasediff.erase(*scene, "uce"))
    still = {**FEW, "learning_rate": 1e-12, "max_train_steps": 1, "train_batch_size": 4}
    run = erasediff.erase(*scene, erasediff.EraseDiff(forget_target="unconditional"), init="uce", **still)
    assert run.record["init"] == {"name": "uce", "fields": run.record["init"]["fields"], "paper": UCE.PAPER}
    close = {n: torch.allclose(p, edited[n], atol=1e-9) for n, p in unet(run).items()}
    assert all(close.values())
    # Distillation agrees with the frozen model; were that the edited one, nothing would be lost at the first step.
    assert run.history[0]["retain_loss"] > 0
    plain = erasediff.erase(*scene, erasediff.EraseDiff(forget_target="unconditional"), **still)
    assert plain.history[0]["retain_loss"] == 0
    assert run.history[0]["forget_loss"] != plain.history[0]["forget_loss"]


def test_what_is_prepared_is_prepared_at_the_original_weights(scene, squares):
    from erasediff.data.pairs import Pairs
    from erasediff.methods.salun import SalUn
    from erasediff.training.config import TrainingConfig
    from erasediff.training.loop import start

    states = []
    for edit in (False, True):
        model, data = miniatures.model("salun", SD), scene[2]
        pairs = Pairs(data, torch.arange(4), torch.arange(4, 8), batch_size=4, seed=0)
        initial = UCE().edit(model, Concepts.of(model.conditions)) if edit else None
        states.append(start(model, SalUn(mask_batches=1), pairs, TrainingConfig(train_batch_size=4), initial=initial))
    assert all(torch.equal(states[0].state[name], mask) for name, mask in states[1].state.items())
    averages = states[1].average.tensors()
    assert all(torch.equal(averages[name], p) for name, p in states[1].trained.items())


def test_a_resumed_run_keeps_its_start(scene, tmp_path):
    asked = {"method": ESD(x_t="data"), "output_dir": tmp_path / "run", **FEW}
    unbroken = erasediff.erase(*scene, ESD(x_t="data"), init="uce", **FEW)
    erasediff.erase(*scene, init="uce", **{**asked, "max_train_steps": 1, "lr_scheduler": "constant"})
    with pytest.raises(BadInput, match="its init was"):
        erasediff.erase(*scene, **{**asked, "lr_scheduler": "constant"}, resume_from_checkpoint="latest")
    resumed = erasediff.erase(
        *scene, init="uce", **{**asked, "lr_scheduler": "constant"}, resume_from_checkpoint="latest"
    )
    constant = erasediff.erase(*scene, ESD(x_t="data"), init="uce", **{**FEW, "lr_scheduler": "constant"})
    assert not differing(unet(resumed), unet(constant))
    assert differing(unet(unbroken), unet(constant))


@pytest.mark.parametrize(
    ("prompt", "anchor", "read_as"),
    [
        ("a photo of a sneaker", "a bag", "a photo of a bag"),
        ("an image of the Sneaker", "a bag", "an image of a bag"),
        ("an image of the sneaker", "bag", "an image of the bag"),
        ("sneakers", "a bag", "a bag"),
        ("a red sneaker on a sneaker", "a bag", "a red bag on a bag"),
    ],
)
def test_the_anchor_comes_in_the_concepts_place_in_the_same_words(prompt, anchor, read_as):
    assert replaced(prompt, ["sneaker"], anchor) == read_as


def test_each_erased_prompt_has_its_counterpart_and_nothing_else_is_touched(squares):
    model = miniatures.model("concept_ablation", SD)
    made, about = concepts(model, ["hat"], "my {}")
    prompts = made.table.prompts
    assert {prompts[a]: prompts[b] for a, b in about.instead.items()} == {
        "a red hat": "a red cap",
        "hat": "a cap",
        "my hat": "my cap",
    }
    assert set(about.kept) == set(range(len(prompts))) - set(about.erased)
    assert prompts[: len(model.class_names)] == model.class_names
