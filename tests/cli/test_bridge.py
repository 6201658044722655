"""Flags, files and their order."""

from dataclasses import dataclass, fields

import pytest

from erasediff.cli import erase
from erasediff.cli.bridge import Parser, add_fields, chosen_fields, descriptions
from erasediff.cli.main import resume_command
from erasediff.errors import BadInput
from erasediff.methods import METHODS
from erasediff.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example.

    Args:
        number: a number
            on two lines.
        switch: a switch.
    """

    number: float = 0.5
    switch: bool = True
    name: str = "x"
    several: tuple[int, ...] = (1, 2)
    maybe: float | None = None


@pytest.fixture
def parser():
    made = Parser(prog="example")
    add_fields(made, Example, "all")
    return made


def test_only_what_is_given_comes_back(parser):
    assert parser.parse([]) == {}
    given = parser.parse(["--number", "1e-3", "--switch", "false", "--several", "3", "4", "--maybe", "2"])
    assert Example(**chosen_fields(Example, given)) == Example(number=1e-3, switch=False, several=(3, 4), maybe=2.0)
    assert parser.parse(["--switch"]) == {"switch": True}


def test_help_says_what_the_docstring_says(parser):
    assert descriptions(Example)["number"] == "a number on two lines."
    assert "a number on two lines. (default: 0.5)" in " ".join(parser.format_help().split())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--numbr", "1"], r"unknown flag --numbr \(did you mean --number\?\)"),
        (["--num", "1"], r"unknown flag --num \(did you mean --number\?\)"),
        (["--number", "x"], "'x' is not a number"),
        (["--several", "1.5"], "'1.5' is not a whole number"),
        (["--switch", "maybe"], "'maybe' is not one of true"),
        (["--number"], "expected one argument"),
        (["stray"], "unknown argument stray"),
    ],
)
def test_bad_flags_are_one_line_with_the_nearest_name(parser, argv, said):
    with pytest.raises(BadInput, match=said) as caught:
        parser.parse(argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [TrainingConfig, *[METHODS[m] for m in METHODS]])
def test_every_field_of_ours_is_explained(kind):
    assert {f.name for f in fields(kind)} <= set(descriptions(kind))


def call(monkeypatch, tmp_path, argv, content=None):
    """What erase would be called with."""
    import erasediff.api.erase as api

    seen = {}

    class Stop(Exception):
        pass

    def fake(model, **options):
        seen.update(model=model, **options)
        raise Stop

    monkeypatch.setattr(api, "erase", fake)
    if content is not None:
        (tmp_path / "c.yaml").write_text(content)
        argv = [*argv, "--config", str(tmp_path / "c.yaml")]
    with pytest.raises(Stop):
        erase.main(argv)
    return seen


CONFIG = """
model: base
target: [class:1, class:2]
output_dir: out
learning_rate: 1e-4
max_train_steps: 7
use_ema: false
mixed_precision: no
overwrite: true
quiet: false
method: {name: erasediff, eta: 0.2, forget_target: noise}
"""


def test_a_file_says_everything(monkeypatch, tmp_path):
    seen = call(monkeypatch, tmp_path, [], CONFIG)
    assert seen["model"] == "base"
    assert seen["target"] == ["class:1", "class:2"]
    assert seen["learning_rate"] == 1e-4
    assert seen["use_ema"] is False
    assert seen["mixed_precision"] == "no"  # which YAML reads as false
    assert seen["overwrite"] is True
    assert "quiet" not in seen
    assert (seen["method"].eta, seen["method"].forget_target) == (0.2, "noise")


def test_a_flag_replaces_what_the_file_says_lists_too(monkeypatch, tmp_path):
    argv = ["other", "--target", "class:9", "--max_train_steps", "3", "--method.eta", "0.7"]
    seen = call(monkeypatch, tmp_path, argv, CONFIG)
    assert (seen["model"], seen["target"], seen["max_train_steps"]) == ("other", ["class:9"], 3)
    assert (seen["method"].eta, seen["method"].forget_target) == (0.7, "noise")


def test_another_method_drops_the_fields_of_the_files(monkeypatch, tmp_path):
    seen = call(monkeypatch, tmp_path, ["--method", "grad_diff"], CONFIG)
    assert seen["method"] == METHODS["grad_diff"]()


def test_the_short_form_of_method(monkeypatch, tmp_path):
    assert (
        call(
            monkeypatch, tmp_path, [], CONFIG.replace("{name: erasediff, eta: 0.2, forget_target: noise}", "fine_tune")
        )["method"]
        == METHODS["fine_tune"]()
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("overwrite: perhaps", "overwrite: 'perhaps' is not one of true"),
        ("learning_rat: 1", "unknown key 'learning_rat' .did you mean learning_rate"),
        ("- 1", "must hold a mapping"),
        ("a: [", "is not YAML"),
        ("max_train_steps: many", "'many' is not a whole number"),
        ("method: 3", "method must be a name, or a mapping with a name, got 3"),
        ("method: [a]", "method must be a name"),
        ("method:", "method must be a name"),
        ("learning_rate: [1e-4, 5e-4]", "learning_rate takes one value, got 2: 1e-4, 5e-4"),
        ("method: {name: erasediff, etta: 1}", "unknown key 'method.etta' .did you mean method.eta"),
    ],
)
def test_bad_files_are_named(tmp_path, content, said):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(BadInput, match=said):
        erase.main(["m", "--target", "class:1", "--output_dir", "o", "--config", str(tmp_path / "c.yaml")])


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("target: class:k\u00e9".encode("latin-1"))
    for name, said in (("none.yaml", "does not exist"), ("latin.yaml", "is not UTF-8 text")):
        with pytest.raises(BadInput, match=rf"--config: .*{name} {said}"):
            erase.main(["m", "--target", "class:1", "--output_dir", "o", "--config", str(tmp_path / name)])


def test_the_resume_command_repeats_the_run():
    given = ["erase", "my base", "--overwrite", "--target", "class:1", "--resume_from_checkpoint", "x"]
    expected = "erasediff erase 'my base' --target class:1 --resume_from_checkpoint latest"
    assert resume_command(given) == expected
