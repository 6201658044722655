"""What the documentation shows works: commands, configuration files, Python, links, tables."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import tomllib
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from tests.docs import methods_table
from tests.docs.markdown import (
    PAGES,
    ROOT,
    SHELLS,
    USER_PAGES,
    anchors,
    blocks,
    command_lines,
    erasediff_commands,
    every,
    files_shown,
    links,
)

import erasediff
from erasediff.auditing.attacks import ATTACKS
from erasediff.auditing.catalogue import METRICS
from erasediff.auditing.features import EXTRACTORS
from erasediff.auditing.result import parse_requirement
from erasediff.auditing.suites import SUITES
from erasediff.cli.main import VERBS, main
from erasediff.data import targets
from erasediff.errors import BadInput
from erasediff.methods import METHODS
from erasediff.methods.erasediff import EraseDiff
from erasediff.methods.forgetting import FORGET_TARGETS
from erasediff.solver.rules import RULES
from erasediff.training.config import TrainingConfig

COMMANDS = erasediff_commands()
# Verb -> the function of the api that it ends in; `list` and `env` are cheap and really run.
ENDS_IN = {verb: f"erasediff.api.{verb}" for verb in ("demo", "train", "erase", "audit", "compare", "export", "purge")}


class Reached(Exception):
    """The verb accepted its command line and was about to do its work."""


def accepted(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Parse ``argv`` with the verb's own parser and configuration handling, and stop short of the work."""

    def stop(*args: Any, **given: Any) -> None:
        raise Reached({**given, "_positional": args})

    verb, *rest = argv
    if verb not in VERBS:
        raise BadInput(f"unknown verb {verb}")
    required: list[str] = []
    monkeypatch.setattr("erasediff.cli.audit.parse_requirement", required.append)
    monkeypatch.setattr(importlib.import_module(ENDS_IN[verb]), verb, stop)
    with pytest.raises(Reached) as caught:
        importlib.import_module(f"erasediff.cli.{verb}").main(rest)
    return {**caught.value.args[0], "require": required}


def check_values(verb: str, given: dict[str, Any]) -> None:
    """What parsers leave to the api: names of targets, suites, features, requirements, settings of the loop."""
    for target in [*given.get("target", []), *given.get("exclude", [])]:
        targets.parse(target)
    for line in given["require"]:
        known = {*METRICS, "relearn_auc_gap", "mia_auc_gap", *(f"relearn_k{k}" for k in (1, 5, 10, 50))}
        parse_requirement(line, known)
    assert given.get("suite", "quick") in SUITES
    assert given.get("features", "pixels") in EXTRACTORS
    if verb in ("train", "erase"):
        TrainingConfig(**{k: v for k, v in given.items() if k in TrainingConfig.__dataclass_fields__})


def in_a_folder_with_the_files_shown(place: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    for name, text in files_shown(next(p for p in PAGES if p.name == page)).items():
        (place / name).write_text(text)
    monkeypatch.chdir(place)


def test_there_are_commands_of_every_verb():
    assert {argv[0] for _, argv in COMMANDS} == set(VERBS)


@pytest.mark.parametrize(
    ("where", "argv"),
    [c for c in COMMANDS if c[1][0] not in ("list", "env")],
    ids=lambda x: x if isinstance(x, str) else x[0],
)
def test_commands_are_accepted(where, argv, tmp_path, monkeypatch):
    in_a_folder_with_the_files_shown(tmp_path, monkeypatch, where.partition(":")[0])
    check_values(argv[0], accepted(argv, monkeypatch))


@pytest.mark.parametrize(("where", "argv"), [c for c in COMMANDS if c[1][0] in ("list", "env")])
def test_cheap_commands_run(where, argv, capsys):
    assert main(argv) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["eraze", "m"],
        ["erase", "m", "--target", "class:1", "--output_dir", "x", "--method.etta", "1"],
        ["erase", "m", "--target", "class:1", "--output_dir", "x", "--method", "saloon"],
        ["erase", "m", "--target", "class:1", "--output_dir", "x", "--method.rule", "dynamic_barier"],
        ["erase", "m", "--target", "clas:1", "--output_dir", "x"],
        ["train", "--data", "digits", "--output_dir", "x", "--lr_scheduler", "cosin"],
        ["audit", "m", "--output_dir", "x", "--require", "forget_rat<=0.1"],
        ["compare", "a", "b"],
        ["demo", "--output_dir", "x", "--sead", "1"],
    ],
)
def test_the_check_above_can_fail(argv, monkeypatch):
    with pytest.raises(BadInput):
        check_values(argv[0], accepted(argv, monkeypatch))


def test_every_yaml_file_shown_is_read_by_a_command_on_its_page():
    for page in PAGES:
        named = set(files_shown(page))
        assert len(named) == sum(b.language == "yaml" for b in blocks(page)), f"{page.name}: a block names no file"
        used = {a[a.index("--config") + 1] for where, a in COMMANDS if where.startswith(page.name) and "--config" in a}
        assert named == used


def test_a_key_of_a_file_that_does_not_exist_is_noticed(tmp_path, monkeypatch):
    text = "model: m\ntarget: class:1\noutput_dir: x\nmethod: {name: erasediff, etta: 1}\n"
    (tmp_path / "erase.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"did you mean method\.eta"):
        accepted(["erase", "--config", "erase.yaml"], monkeypatch)


@pytest.mark.parametrize("block", every("python"), ids=str)
def test_python_compiles_and_names_what_exists(block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("erasediff") and block.page in USER_PAGES:
            assert all(hasattr(importlib.import_module(str(node.module)), a.name) for a in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "erasediff":
            assert hasattr(erasediff, node.attr), f"{block}: erasediff.{node.attr}"
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("erasediff."):
            check_arguments(getattr(erasediff, ast.unparse(node.func).removeprefix("erasediff.")), node)


def check_arguments(function: Any, call: ast.Call) -> None:
    parameters = inspect.signature(function).parameters
    given = {k.arg: k.value for k in call.keywords if k.arg}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        given = {k: v for k, v in given.items() if k not in TrainingConfig.__dataclass_fields__}
    unknown = set(given) - set(parameters)
    assert not unknown, f"{function.__name__} takes no {unknown}"


@pytest.mark.parametrize("language", ["json", "toml", "bash"])
def test_other_blocks_are_well_formed(language):
    check = {"json": json.loads, "toml": tomllib.loads, "bash": str}[language]
    for block in every(language):
        check(block.text)


def test_shell_blocks_are_marked_as_such():
    """A command in a block of another language would escape the tests above."""
    for page in PAGES:
        for block in blocks(page):
            if block.language not in SHELLS:
                assert not re.search(r"^\s*(\$ )?erasediff \w", block.text, re.MULTILINE), str(block)
            for line in command_lines(block) if block.language in SHELLS else []:
                if line.lstrip().startswith("make "):
                    assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        name, _, anchor = link.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {link}"


def test_the_index_names_every_page():
    index = links(ROOT / "docs" / "index.md")
    assert {p.name for p in (ROOT / "docs").glob("*.md")} - {"index.md"} <= set(index)


def test_files_named_in_prose_exist():
    for page in PAGES:
        for name in re.findall(r"`((?:src|tests|docs)/[\w./-]+)`", page.read_text()):
            shown = "scaled_ascent" in name  # the worked example of CONTRIBUTING.md
            assert shown or (ROOT / name).exists(), f"{page.name}: {name}"


def section_of(text, method):
    return text.split(f"\n### {method}\n")[1].split("\n## ")[0].split("\n### ")[0]


def test_the_page_of_methods_is_what_the_code_says():
    text = methods_table.PAGE.read_text()
    assert methods_table.replaced(text) == text, "run: python tests/docs/methods_table.py"
    for name, kind in METHODS.items():
        section = section_of(text, name)
        told = section + "".join(section_of(text, p) for p in re.findall(r"those of (\w+)\]\(#", section))
        assert all(f"| `{field}` |" in told for field in (f.name for f in fields(kind)))
        for parent in (k for k in METHODS.values() if k is not kind and issubclass(kind, k)):
            usual = {f.name: f.default for f in fields(parent)}
            assert all((f"| `{f.name}` |" in section) == (f.default != usual[f.name]) for f in fields(kind))
        assert kind.SUMMARY in text


def test_the_readme_names_every_method_and_counts_the_rules():
    text = (ROOT / "README.md").read_text()
    assert all(f"| `{name}` |" in text for name in METHODS)
    assert f"the {len(RULES)} rules" in text


def test_defaults_that_prose_rests_on():
    page = (ROOT / "docs" / "how-erasediff-works.md").read_text()
    default = EraseDiff()
    usual = {"classes": FORGET_TARGETS["relabel"].rule, "else": FORGET_TARGETS["redirect"].rule}
    assert f"By default (`{default.rule}`) it is `{usual['classes']}` where whole classes are forgotten" in page
    assert f"and `{usual['else']}`, the paper's rule, elsewhere" in page
    assert {t.rule for name, t in FORGET_TARGETS.items() if name != "relabel"} == {usual["else"]}
    pushed = [f"{FORGET_TARGETS[name].repulsion} under ``{name}``" for name in ("relabel", "anchor")]
    assert " and ".join(pushed) in (EraseDiff.__doc__ or "")
    harder, hard = FORGET_TARGETS["redirect"].eta, FORGET_TARGETS["relabel"].eta
    words = " ".join((EraseDiff.__doc__ or "").split())
    assert f"by default {harder} under ``redirect``, else {hard}" in words
    assert {t.eta for name, t in FORGET_TARGETS.items() if name != "redirect"} == {hard}
    assert FORGET_TARGETS["relabel"].repulsion > 0 and f"The default is `{default.forget_target}`" in page
    if not all("plain gradient steps" in RULES[rule].reference for rule in usual.values()):
        assert "rule that is the default holds for plain gradient steps" not in (ROOT / "README.md").read_text()


def test_every_measurement_is_explained():
    text = (ROOT / "docs" / "reading-a-report.md").read_text()
    assert all(f"`{name}`" in text for name in METRICS)
    assert all(name.lower() in text.lower() for name in ATTACKS)


def test_placeholders_come_in_pairs():
    for page in PAGES:
        marks = re.findall(r"<!-- (/?)([\w: -]+?) -->", page.read_text())
        assert [n for slash, n in marks if not slash] == [n for slash, n in marks if slash], page.name


def test_the_pins_are_what_the_project_accepts_and_the_readme_says():
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        wanted = Requirement(line)
        pin = pins.get(wanted.name.lower().replace("_", "-"))
        assert pin is not None, f"{wanted.name} is not pinned"
        assert wanted.specifier.contains(pin)
        assert "+" not in pin
    for page in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"torch==([\d.]+)", (ROOT / page).read_text())) == {pins["torch"]}


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version("erasediff")
    assert f"## [{version('erasediff')}]" in (ROOT / "CHANGELOG.md").read_text()
    assert citation["references"][0]["identifiers"][0]["value"] == EraseDiff.PAPER
