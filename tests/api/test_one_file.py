"""A single .safetensors file wherever a MODEL is taken, and what run.json says of where a model came from."""

import shutil

import huggingface_hub
import pytest
import torch
from tests.api._lora_runs import captioned
from tests.families import _tiny_text

import erasediff
from erasediff import families
from erasediff.api.export import SINGLE_FILE, export
from erasediff.api.subjects import Subjects
from erasediff.cli.main import main
from erasediff.errors import BadInput
from erasediff.files import read_json, sha256

SETTINGS = {"max_train_steps": 1, "train_batch_size": 4, "checkpointing_steps": 0, "quiet": True}
COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The tiny Stable Diffusion as a directory, as a file, and what is left of it by a full and a LoRA erasure."""
    root = tmp_path_factory.mktemp("files")
    families.adopt(_tiny_text.stable_diffusion()).save(root / "sd")
    export(root / "sd", "single_file", root / "file")
    for name, more in {"run": {"learning_rate": 1e-2}, "lora": {"learning_rate": 1e-1, "rank": 2}}.items():
        given = {**SETTINGS, **more, "model_config": root / "sd", "output_dir": root / name}
        erasediff.erase(root / "file" / SINGLE_FILE, "class:a cat", captioned(), **given)
    return root


def asked(model):
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 60])
    made = model.with_prompts(["a cat"])
    with torch.no_grad():
        return made.ask(made.denoiser, x, t, torch.tensor([0, 1]))


def test_the_record_names_the_file_its_hash_and_its_configuration(place):
    file = place / "file" / SINGLE_FILE
    for name in ("run", "lora"):
        assert read_json(place / name / "run.json")["base_model"] == {
            "source": str(file),
            "sha256": {SINGLE_FILE: sha256(file)},
            "config": str(place / "sd"),
        }


@pytest.mark.parametrize("name", ["run", "lora"])
def test_a_run_on_a_file_is_a_model_and_exports_to_a_file_again(place, name, tmp_path):
    export(place / name, "single_file", tmp_path / "again")
    wanted = asked(families.load(place / name))
    assert torch.allclose(asked(families.load(tmp_path / "again" / SINGLE_FILE, place / "sd")), wanted, atol=1e-6)
    assert not torch.allclose(asked(families.load(place / "sd")), wanted, atol=1e-3)


def test_a_lora_on_a_file_that_changed_or_went_is_refused(place, tmp_path):
    shutil.copytree(place / "file", tmp_path / "file")
    shutil.copytree(place / "sd", tmp_path / "sd")
    given = {**SETTINGS, "model_config": tmp_path / "sd", "rank": 2, "output_dir": tmp_path / "run"}
    erasediff.erase(tmp_path / "file" / SINGLE_FILE, "class:a cat", captioned(), **given)
    export(place / "run", "single_file", tmp_path / "file", overwrite=True)
    with pytest.raises(BadInput, match=r"is not what the LoRA .* was trained on: model\.safetensors has changed"):
        families.load(tmp_path / "run")
    shutil.rmtree(tmp_path / "file")
    with pytest.raises(BadInput, match="which is gone"):
        families.load(tmp_path / "run")


def test_a_file_exports_to_a_directory(place, tmp_path):
    file = str(place / "file" / SINGLE_FILE)
    command = ["export", file, "--model_config", str(place / "sd"), "--to", "full"]
    assert main([*command, "--output_dir", str(tmp_path / "full")]) == 0
    assert torch.equal(asked(families.load(tmp_path / "full")), asked(families.load(place / "sd")))


def test_an_audit_takes_files_beside_runs(place):
    made = Subjects.load(place / "run", {"base": place / "file" / SINGLE_FILE}, None, captioned(), None, place / "sd")
    assert made.weights["base"] == {SINGLE_FILE: sha256(place / "file" / SINGLE_FILE)}
    with pytest.raises(BadInput, match="no model that was given is one; leave it out"):
        Subjects.load(place / "run", {"base": place / "sd"}, None, captioned(), None, place / "sd")


def test_training_goes_on_from_a_file(place):
    base = {"pretrained_model_name_or_path": place / "file" / SINGLE_FILE, "model_config": place / "sd"}
    run = erasediff.train(captioned(), caption_template="{}", **base, **SETTINGS)
    assert run.record["base_model"]["config"] == str(place / "sd")


def refused(argv, tmp_path, capsys):
    assert main([*argv, "--output_dir", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()
    return said


def test_bad_input_is_one_line(place, tmp_path, capsys):
    file, sd = str(place / "file" / SINGLE_FILE), str(place / "sd")
    erase = ["erase", file, "--target", "class:a cat", "--data", "digits"]
    said = refused(erase, tmp_path, capsys)
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5, cannot be had from the Hub" in said
    assert "--model_config DIR|HUB_ID" in said
    assert f"is --model_config {sd}" in refused([*erase, "--config", sd], tmp_path, capsys)
    said = refused(["erase", sd, *erase[2:], "--model_config", sd], tmp_path, capsys)
    assert "no model that was given is one; leave it out" in said
    said = refused(["erase", str(tmp_path / "lost.safetensors"), *erase[2:], "--model_config", sd], tmp_path, capsys)
    assert "lost.safetensors' does not exist" in said
    lora = str(place / "lora/lora/pytorch_lora_weights.safetensors")
    assert "is a LoRA, a change of a model and no model by itself" in refused(
        ["erase", lora, *erase[2:]], tmp_path, capsys
    )
    assert "cannot be had from the Hub" in refused(["audit", file, "--target", "class:a cat"], tmp_path, capsys)


@pytest.fixture
def stand_in(place, monkeypatch, tmp_path):
    """The Hub, whose snapshots are the tiny Stable Diffusion below its commit; what was asked."""
    kept = tmp_path / "models--owner--name/snapshots" / COMMIT
    shutil.copytree(place / "sd", kept)
    asked_for = []

    def snapshot(name, *, revision, **options):
        asked_for.append((name, revision))
        return str(kept)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return kept, asked_for


@pytest.mark.parametrize("given", ["owner/name", "owner/name@main"])
def test_a_model_of_the_hub_is_recorded_by_id_and_commit(place, stand_in, given, tmp_path):
    run = erasediff.erase(given, "class:a cat", captioned(), output_dir=tmp_path / "run", **SETTINGS)
    base = run.record["base_model"]
    assert (base["id"], base["revision"], base["source"]) == ("owner/name", COMMIT, str(stand_in[0]))
    card = (tmp_path / "run/README.md").read_text()
    assert "base_model: owner/name\n" in card
    assert f"- Base model: `owner/name at revision {COMMIT}`" in card


def test_where_the_hub_names_no_commit_the_revision_asked_for_is_recorded(place, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(place / "sd"))
    for given, revision in (("owner/name@v2", "v2"), ("owner/name", None)):
        base = erasediff.erase(given, "class:a cat", captioned(), dry_run=True, **SETTINGS).record["base_model"]
        assert (base["id"], base["revision"]) == ("owner/name", revision)


def test_a_lora_on_a_model_of_the_hub_finds_it_again(place, stand_in, tmp_path):
    kept, asked_for = stand_in
    given = {**SETTINGS, "rank": 2, "learning_rate": 1e-1, "output_dir": tmp_path / "run"}
    run = erasediff.erase("owner/name", "class:a cat", captioned(), **given)
    card = (tmp_path / "run/README.md").read_text()
    assert f'DiffusionPipeline.from_pretrained("owner/name", revision="{COMMIT}")' in card
    moved = kept.rename(kept.parent / "gone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            huggingface_hub, "snapshot_download", lambda *a, **o: asked_for.append((*a, o["revision"])) or moved
        )
        assert torch.allclose(asked(families.load(tmp_path / "run")), asked(run.model), atol=1e-6)
    assert ("owner/name", COMMIT) in asked_for


def test_what_is_no_hub_id_has_none(place):
    base = erasediff.erase(place / "sd", "class:a cat", captioned(), dry_run=True, **SETTINGS).record["base_model"]
    assert set(base) == {"source", "sha256"}
