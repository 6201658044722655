"""Concepts through the command line: the plan, the run, and every bad input as one line."""

import json
import warnings

import pytest
from PIL import Image
from tests.families import _tiny_text

from erasediff.cli.erase import main as erase
from erasediff.cli.main import main
from erasediff.families import adopt

FEW = ["--max_train_steps", "1", "--train_batch_size", "2", "--quiet", "--num_inference_steps", "1"]
FEW += ["--num_forget_images", "10", "--num_retain_images", "20"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    place = tmp_path_factory.mktemp("base") / "model"
    adopt(_tiny_text.stable_diffusion()).save(place)
    return str(place)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (16, 16), (80 * i, 0, 0)).save(folder / f"{i}.png")
    return folder


def test_a_dry_run_prints_what_would_be_drawn(base, tmp_path, capsys):
    argv = ["erase", base, "--target", "concept:hat", "--anchor", "a cap", "--output_dir", str(tmp_path / "x")]
    assert main([*argv, *FEW, "--retain_prompts", "a dog", "a cat", "--dry_run"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["generate"]["retain"] == {"images": 20, "to_draw": 20, "prompts": ["a dog", "a cat"]}
    assert plan["generate"]["forget"]["prompts"][0] == "hat"
    assert not (tmp_path / "x").exists()


def test_several_concepts_from_a_file_of_flags_with_photos_and_prompts(base, photos, tmp_path, capsys):
    (tmp_path / "dogs.txt").write_text("a dog\n")
    config = {"target": ["concept:hat", "concept:dog"], "anchor": ["a cap", "a cat"], "retain_prompts": ["a cow"]}
    (tmp_path / "erase.yaml").write_text(json.dumps(config))  # JSON is YAML
    argv = ["erase", base, "--config", str(tmp_path / "erase.yaml"), *FEW, "--output_dir", str(tmp_path / "run")]
    assert main(argv) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["shown"]["anchors"] == {"concept:hat": "a cap", "concept:dog": "a cat"}
    assert main(["purge", str(tmp_path / "run")]) == 0
    assert "generated" in capsys.readouterr().out
    assert not (tmp_path / "run" / "generated").exists()


def test_help_says_how_flags_are_matched_to_concepts(capsys):
    with pytest.raises(SystemExit):
        erase(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "once for all concepts, or as often as there are concepts, in their order" in said
    assert "--num_forget_images" in said


def bad(photos, tmp_path, name):
    """Flags that are wrong in one way."""
    if name == "unreadable":
        (photos / "1.png").write_bytes(b"no image")
    if name == "absent":
        (photos / "metadata.jsonl").write_text('{"file_name": "9.png", "text": "a hat"}\n')
    if name == "nothing":
        for path in photos.iterdir():
            path.write_bytes(b"")
        return ["--target", "concept:hat", "--images", str(photos), "--skip_unreadable"]
    if name in ("empty", "long"):
        (tmp_path / "p.txt").write_text("\n" if name == "empty" else "a hat that is too long to read\n")
        return ["--target", "concept:hat", "--prompts", str(tmp_path / "p.txt")]
    return ["--target", "concept:hat", "--images", str(photos)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unreadable", "1.png cannot be read"),
        ("absent", "9.png does not exist"),
        ("nothing", "holds no readable image: 3 cannot be read, first 0.png"),
        ("empty", "p.txt is empty; give one prompt a line"),
        ("long", "tokens with start and end, the model reads 16 and would cut the rest"),
        (["--target", "concept:hat", "--anchor", "hat"], "is the concept itself"),
        (["--target", "concept: "], "says of no concept which; give it after the colon"),
        (["--target", "concept:hat", "--images", "a", "--images", "b"], "images is given 2 times for 1 concepts"),
        (["--target", "concept:hat", "--guidance_scale", "strong"], "'strong' is not a number"),
        (["--target", "concept:hat", "--num_forget_image", "3"], "did you mean --num_forget_images"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(base, photos, tmp_path, capsys, name, said):
    flags = bad(photos, tmp_path, name) if isinstance(name, str) else name
    assert main(["erase", base, *flags, *FEW, "--output_dir", str(tmp_path / "run")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("[transformers]", "Token"))]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "run").exists()


def test_unreadable_photos_are_skipped_and_counted(base, photos, tmp_path, capsys):
    (photos / "1.png").write_bytes(b"no image")
    argv = ["erase", base, "--target", "concept:hat", "--images", str(photos), "--skip_unreadable", "--dry_run"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main([*argv, *FEW, "--output_dir", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    assert f"warning: 1 of 3 images in {photos} could not be read and are left out, first 1.png\n" in err
    assert json.loads(out)["plan"]["forget_samples"] == 2
