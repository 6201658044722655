"""A comparison as data: every run, the methods' means, the tests, the fronts; and its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from erasediff.report.aggregate import COSTS, NOT_RUN, Aggregate, RunRow, aggregate, best, ratio
from erasediff.report.pareto import Picture, pictures
from erasediff.report.race import Race, standings
from erasediff.report.rivals import PairedTest, paired_tests
from erasediff.report.vocabulary import measure, sorting_key

SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What ``compare`` returns.

    ``reference``: the label that the others are tested and timed against; ``control``: the label of the control;
    ``margins``: measure -> margin of equivalence; ``notes``: sentences on what was compared and how.
    """

    rows: Sequence[RunRow]
    reference: str | None
    control: str | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    race: Race | None = None
    notes: Sequence[str] = ()

    @cached_property
    def aggregates(self) -> list[Aggregate]:
        """A row for each label, in the order of the runs."""
        return aggregate(self.rows)

    @cached_property
    def tests(self) -> list[PairedTest]:
        """The reference against each rival, corrected after Holm."""
        return paired_tests(self.aggregates, self.reference, self.margins)

    @cached_property
    def pictures(self) -> list[Picture]:
        """Forgetting against retention."""
        return pictures(self.aggregates)

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(r.target for r in self.rows))

    @property
    def missing(self) -> list[RunRow]:
        """The runs of the plan that have not been made yet."""
        return [r for r in self.rows if r.status == NOT_RUN]

    def find(self, label: str | None) -> Aggregate | None:
        """The aggregate of a label, or ``None``."""
        return next((a for a in self.aggregates if a.label == label), None)

    def measures(self) -> dict[str, bool]:
        """Measure -> whether higher is better, in the order of reading."""
        known = {m.name: m for row in self.rows for m in row.measures.values()}
        return {n: known[n].higher_is_better for n in sorted(known, key=lambda n: sorting_key(n, known[n].group))}

    def best(self, name: str) -> set[str]:
        """Labels of the methods with the best mean of a measure."""
        return best(self.aggregates, name, higher_is_better=self.measures()[name])

    def to_dict(self) -> dict[str, Any]:
        """The content of compare.json."""
        return {
            "schema": SCHEMA,
            "reference": self.reference,
            "control": self.control,
            "targets": self.targets,
            "measures": {n: {"title": measure(n, "").title, "higher_is_better": h} for n, h in self.measures().items()},
            "runs": [_run(row) for row in self.rows if not row.beside],
            "models": [_run(row) for row in self.rows if row.beside],
            "aggregates": [self._aggregate(a) for a in self.aggregates],
            "tests": [asdict(t) for t in self.tests],
            "pareto": [_picture(p) for p in self.pictures],
            "race": None if self.race is None else self._race(self.race),
            "notes": list(self.notes),
        }

    def _aggregate(self, found: Aggregate) -> dict[str, Any]:
        to = self.find(self.reference)
        return {
            "label": found.label,
            "kind": found.kind,
            "planned": len(found.runs),
            "measured": found.measured,
            "statuses": found.statuses,
            "measures": {n: {**asdict(m), "best": found.label in self.best(n)} for n, m in found.measures.items()},
            "cost": {n: {**asdict(m), "over_reference": ratio(found, to, n)} for n, m in found.cost.items()},
        }

    def _race(self, race: Race) -> dict[str, Any]:
        return {
            "target_line": dict(race.target_line),
            "standings": [asdict(s) for s in standings(race, self.reference)],
        }


def _run(row: RunRow) -> dict[str, Any]:
    bounds = ("value", "low", "high", "n")
    return {
        "label": row.label,
        "kind": row.kind,
        "target": row.target,
        "seed": row.seed,
        "status": row.status,
        "detail": row.detail,
        "path": row.path,
        "measures": {n: {k: getattr(m, k) for k in bounds} for n, m in row.measures.items()},
        "cost": {n: row.cost[n] for n in COSTS if n in row.cost},
        "audit": dict(row.setting),
        "run": row.record,
    }


def _picture(found: Picture) -> dict[str, Any]:
    points = [{"label": s, "x": asdict(x), "y": asdict(y)} for s, (x, y) in found.points.items()]
    return {"x": "forget_rate", "y": found.y, "points": points, "front": list(found.front)}
