"""The report: one self-contained HTML page that can be mailed, printed and read without a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from erasediff.auditing.result import AuditResult
from erasediff.files import write_atomic
from erasediff.report import against, attacked, citations, curves, facts, figures, story
from erasediff.report.pictures import Pictures, sheets
from erasediff.report.tables import table
from erasediff.report.vocabulary import SUBJECTS, ordered_subjects, subject_class, target_phrase


def render(
    result: AuditResult,
    pictures: Pictures,
    *,
    captions: Mapping[str, str] | None = None,
    run: Mapping[str, Any] | None = None,
) -> str:
    """The page as text; the same input gives the same bytes.

    Args:
        result: what was measured.
        pictures: subject -> kind ("forget", "retain", "unconditional") -> uint8 [N, H, W, C], or empty.
        captions: kind -> a sentence that replaces the default one above those pictures.
        run: the erased model's run.json, for the section on how it was erased.

    Raises:
        BadInput: pictures of another shape or type.
    """
    subjects = ordered_subjects([*result.subjects(), *pictures])
    return str(
        environment()
        .get_template("page.html.jinja")
        .render(
            target=target_phrase(result.target),
            subjects=[(s, *SUBJECTS.get(s, (s, "a model given for comparison"))) for s in subjects],
            sheets=sheets(pictures, captions),
            **_conclusion(result),
            **_comparisons(result),
            **_figures(result),
            **_method(result, run or {}),
        )
    )


def _conclusion(result: AuditResult) -> dict[str, Any]:
    return {
        "level": result.verdict.level,
        "answer": story.answer(result),
        "evidence": story.evidence(result),
        "reasons": story.reasons(result),
        "exposed_by": attacked.exposed(result),
        "not_tested": story.not_tested(result),
        "goal": story.GOALS.get(result.verdict.goal, ""),
        "headlines": story.headlines(result),
    }


def _comparisons(result: AuditResult) -> dict[str, Any]:
    rows = against.rows(result)
    return {
        "comparisons": against.groups(rows),
        "forest": against.forest(rows),
        "tally": against.tally(rows),
        "outcomes": against.legend(),
        "attacks": attacked.attacks(result),
    }


def _figures(result: AuditResult) -> dict[str, Any]:
    return {
        "overview": figures.overview(result),
        "per_class": figures.per_class(result),
        "layers": figures.layers(result),
        "curves": curves.relearning(result),
        "curve_legend": figures.legend([m.subject for m in result.measurements if m.group == "relearning"]),
        "table": table(result),
    }


def _method(result: AuditResult, run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "making": facts.making(run),
        "measuring": facts.measuring(result),
        "surroundings": facts.surroundings(result),
        "command": facts.command(result),
        "citations": citations.cited(result),
    }


def write(path: Path | str, html: str) -> None:
    """Write the page whole or not at all. Raises BadInput where the place cannot be written."""
    write_atomic(Path(path), html)


def environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("erasediff", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["tidy"] = tidy
    made.globals["subject_class"] = subject_class
    return made


def tidy(text: str) -> str:
    """Keep a number and its percent sign on one line."""
    kept = text.replace(" %", "\u00a0%")
    return Markup(kept) if isinstance(text, Markup) else kept
