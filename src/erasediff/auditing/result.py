"""What an audit returns: measurements, a verdict, and the questions one may ask of them."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from erasediff.errors import BadInput, RequirementFailed, listing, nearest

SCHEMA = 1
ERASED = "erased"
LEVELS = ("not_erased", "superficial", "suppressed", "indistinguishable_from_retrained", "no_verdict")
COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number about one subject, with its interval and everything needed to read it.

    ``low`` and ``high`` bound a 95 % interval (``None`` where none is defined), ``n`` is the number of samples
    behind the value and ``detail`` names instruments and holds what a figure needs (curves, layers).
    """

    name: str
    group: str
    subject: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int
    higher_is_better: bool
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The audit's conclusion in words; ``level`` is one of :data:`LEVELS`."""

    goal: str
    level: str
    because: Sequence[str] = ()
    exposed_by: Sequence[str] = ()
    not_tested: Sequence[dict[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """Measurements of all subjects, the verdict, and ``setting``: instruments, sampling, seeds, models audited."""

    target: str
    measurements: Sequence[Measurement]
    verdict: Verdict
    setting: dict[str, Any] = field(default_factory=dict)

    def find(self, name: str, subject: str = ERASED) -> Measurement | None:
        """The measurement of that name and subject, or ``None``."""
        return next((m for m in self.measurements if m.name == name and m.subject == subject), None)

    def subjects(self) -> list[str]:
        """Subjects in the order in which they were measured."""
        return list(dict.fromkeys(m.subject for m in self.measurements))

    def to_dict(self) -> dict[str, Any]:
        """The content of ``audit.json``."""
        return {
            "schema": SCHEMA,
            "target": self.target,
            "measurements": [asdict(m) for m in self.measurements],
            "verdict": asdict(self.verdict),
            "setting": self.setting,
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> AuditResult:
        """The inverse of :meth:`to_dict`. Raises BadInput for a schema that this version does not read."""
        if record.get("schema") != SCHEMA:
            raise BadInput(f"audit.json of schema {record.get('schema')!r} cannot be read; this version reads {SCHEMA}")
        return cls(
            target=record["target"],
            measurements=[Measurement(**m) for m in record["measurements"]],
            verdict=Verdict(**record["verdict"]),
            setting=record.get("setting", {}),
        )

    def require(self, *requirements: str) -> None:
        """Check lines like ``forget_rate<=0.02`` on the erased model; raises RequirementFailed."""
        parsed = [parse_requirement(r, {m.name for m in self.measurements}) for r in requirements]
        failed = []
        for name, symbol, bound in parsed:
            found = self.find(name)
            if found is None:
                failed.append(f"{name} was not measured on the erased model")
            elif not COMPARISONS[symbol](found.value, bound):
                failed.append(f"{name} = {found.value:.4g} is not {symbol} {bound:g}")
        if failed:
            raise RequirementFailed("requirement failed: " + "; ".join(failed))


def parse_requirement(text: str, known: set[str] | None = None) -> tuple[str, str, float]:
    """``"forget_rate<=0.02"`` -> ``("forget_rate", "<=", 0.02)``; ``known`` limits the names. Raises BadInput."""
    match = re.fullmatch(r"\s*([A-Za-z]\w*)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*", text)
    try:
        name, symbol, bound = match.groups() if match else ("", "", "")
        number = float(bound)
    except ValueError:
        allowed = listing(COMPARISONS)
        raise BadInput(f"--require {text!r} is not NAME, a comparison ({allowed}) and a number") from None
    if known is not None and name not in known:
        raise BadInput(f"--require names {name!r}{nearest(name, known)}; measured were: {listing(sorted(known))}")
    return name, symbol, number
