"""The command line from outside: what it says, what it imports, how it ends."""

import json
import subprocess
import sys

import pytest

from erasediff.cli.main import VERBS, main


def loaded_by(*argv):
    program = (
        "import sys\nfrom erasediff.cli.main import main\n"
        f"try:\n    main({list(argv)!r})\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize("argv", [("--help",), ("--version",), (), ("nonsense",)])
def test_help_loads_no_torch(argv):
    assert not {"torch", "diffusers", "numpy"} & loaded_by(*argv)


@pytest.mark.parametrize(
    "argv", [("erase", "--help"), ("train", "--help"), ("list", "methods"), ("list", "families"), ("audit", "--help")]
)
def test_listing_and_help_of_verbs_load_no_diffusers(argv):
    assert not {"diffusers", "transformers", "accelerate", "sklearn"} & loaded_by(*argv)


@pytest.mark.slow
def test_the_console_script_says_nothing_of_packages_that_nobody_needs():
    """transformers misses torchvision and bitsandbytes its kernels, as soon as diffusers names a pipeline."""
    wake = "from diffusers import StableDiffusionPipeline"
    hushed = f"from erasediff.cli.main import hush\nhush()\n{wake}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", hushed], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)


def test_no_verb_is_bad_usage(capsys):
    assert main([]) == 2


def test_an_unknown_verb_is_named(capsys):
    assert main(["erasee"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown verb 'erasee' (did you mean erase?); "
        "allowed: demo, train, erase, audit, compare, export, purge, list, env\n"
    )


@pytest.mark.parametrize("what", ["methods", "families", "metrics", "attacks", "presets", "rules", "suites"])
def test_lists_are_text_and_json(what, capsys):
    assert main(["list", what]) == 0
    text = capsys.readouterr().out
    assert main(["list", what, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["name"] in text for row in rows)


def test_env(capsys):
    assert main(["env"]) == 0
    assert "torch:" in capsys.readouterr().out
    assert main(["env", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["torch"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["list", "method"], "did you mean methods"),
        (["list", "methods", "--format", "yaml"], "allowed: text, json"),
        (["erase", "--target", "class:1"], "missing MODEL, --output_dir"),
        (["erase", "m", "--method", "erasedif"], "unknown method 'erasedif' (did you mean erasediff?)"),
        (["erase", "m", "--method.etta", "1"], "unknown flag --method.etta (did you mean --method.eta?)"),
        (["train", "--max_train_step", "1"], "did you mean --max_train_steps?"),
        (["train", "--data", "digits", "--output_dir", "x", "--learning_rate", "-1"], "learning_rate must be above 0"),
        (["audit", "m"], "missing --output_dir"),
        (["compare"], "missing RUN"),
        (["purge", "nowhere"], "is no run directory"),
        (["export", "nowhere", "--to", "full", "--output_dir", "x"], "does not exist"),
        (["export", "nowhere", "--to", "ful", "--output_dir", "x"], "did you mean full"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_an_internal_error_is_exit_1_with_its_traceback(capsys, monkeypatch):
    import erasediff.cli.env as module

    monkeypatch.setattr(module, "versions", lambda: 1 / 0)
    assert main(["env"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "internal error" in err
