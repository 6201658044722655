"""The house itself: floors, sizes, what is shipped, and that errors are single lines."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import erasediff

SOURCE = Path(erasediff.__file__).parent
ROOT = SOURCE.parents[1]
FILES = sorted(SOURCE.rglob("*.py"))


def test_imports_only_go_down():
    """The contracts of pyproject.toml, as `lint-imports` checks them."""
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_room_is_too_large(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.end_lineno - node.body[0].lineno + 1
            assert body <= 70, f"{node.name} has {body} lines"
        assert not isinstance(node, ast.Assert), "assert is for tests: raise what a user can cause"


def test_nothing_is_unpickled():
    for path in FILES:
        found = re.findall(r"torch\.load\(|pickle\.\w+\(|\.bin\"|allow_pickle=True", path.read_text())
        assert not found, f"{path}: {found}"


def test_public_names_exist_and_cost_nothing_to_import():
    program = "import sys, erasediff; print(sorted({'torch', 'diffusers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for name in erasediff.__all__:
        assert getattr(erasediff, name) is not None
    # Importing the floors must not put a module in the place of a public function.
    importlib.import_module("erasediff.auditing.examine")
    assert callable(erasediff.audit)
    assert callable(erasediff.erase)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        erasediff.nonsense  # noqa: B018


@pytest.mark.slow
def test_the_wheel_builds_installs_and_runs(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    source = tmp_path / "source"
    source.mkdir()
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("erasediff-*.whl")
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    assert (target / "erasediff" / "py.typed").exists()
    for shipped in ("report/page.html.jinja", "families/pipelines/class_conditional_ddpm.py"):
        assert (target / "erasediff" / shipped).exists()
    program = (
        f"import sys; sys.path.insert(0, {str(target)!r}); from erasediff.cli.main import main; main(['--version'])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"erasediff {erasediff.__version__}"
