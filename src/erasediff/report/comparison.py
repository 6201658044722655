"""Several models side by side: one column each, on one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence

from erasediff.auditing.result import AuditResult
from erasediff.report.page import environment
from erasediff.report.tables import table
from erasediff.report.vocabulary import target_phrase


def render(result: AuditResult, facts: Sequence[tuple[str, str]]) -> str:
    """The page as text. ``result``: one subject a model; ``facts``: label and text, how each column was measured."""
    page = environment().get_template("comparison.html.jinja")
    return str(page.render(table=table(result), target=target_phrase(result.target), facts=list(facts)))
