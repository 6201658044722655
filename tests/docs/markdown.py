"""Reading the project's Markdown: fenced blocks, command lines, links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
USER_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*USER_PAGES, *(ROOT / f"{n}.md" for n in ("CONTRIBUTING", "CHANGELOG", "AGENTS", "SECURITY"))]
SHELLS = ("bash", "console")
LAUNCHERS = ("accelerate launch -m erasediff", "python -m erasediff", ".venv/bin/erasediff", "erasediff")


@dataclass(frozen=True)
class Block:
    """A fenced code block and where it stands."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page. Raises ValueError for a fence that is never closed."""
    found, opened = [], None
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        fence = re.match(r"\s*```(\S*)", line)
        if fence and opened is None:
            opened = (number, fence[1], [])
        elif fence and opened is not None:
            found.append(Block(page, opened[0], opened[1], "\n".join(opened[2]) + "\n"))
            opened = None
        elif opened is not None:
            opened[2].append(line)
    if opened is not None:
        raise ValueError(f"{page.name}:{opened[0]}: the fence is never closed")
    return found


def every(language: str, pages: list[Path] = PAGES) -> list[Block]:
    return [b for page in pages for b in blocks(page) if b.language == language]


def command_lines(block: Block) -> list[str]:
    """The lines that a shell would run: continued lines joined, comments and a console's output left out."""
    lines = [line for line in re.sub(r"\\\n\s*", "", block.text).splitlines() if line.strip()]
    if block.language == "console":
        lines = [line.lstrip()[2:] for line in lines if line.lstrip().startswith("$ ")]
    return [line for line in lines if not line.lstrip().startswith("#")]


def erasediff_commands(pages: list[Path] = PAGES) -> list[tuple[str, list[str]]]:
    """Every erasediff command shown: where, and its arguments."""
    found = []
    for block in (b for page in pages for b in blocks(page) if b.language in SHELLS):
        for line in command_lines(block):
            words = [w for w in shlex.split(line, comments=True) if not re.fullmatch(r"[A-Z_]+=\S*", w)]
            for launcher in (x.split() for x in LAUNCHERS):
                if words[: len(launcher)] == launcher:
                    found.append((f"{block}", words[len(launcher) :]))
                    break
    return found


def files_shown(page: Path) -> dict[str, str]:
    """YAML blocks whose first line names a file (`# erase.yaml`), by that name."""
    named = [(re.match(r"# (\S+\.yaml)\n", b.text), b) for b in blocks(page) if b.language == "yaml"]
    return {match[1]: b.text for match, b in named if match}


def links(page: Path) -> list[str]:
    """Link destinations outside code."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "code", prose))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}
