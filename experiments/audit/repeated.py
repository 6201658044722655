"""Does a second audit of the same models, from other seeds, say the same?

    python experiments/audit/repeated.py digits --output_dir runs/planted --seeds 3 --cases erasediff

Run after planted.py with the same arguments. Prints the measures whose 95 % intervals do not meet, and both verdicts.
"""

from __future__ import annotations

import json

from planted import Bench, arguments

from erasediff.api.judges import judge_for
from erasediff.auditing.result import AuditResult
from erasediff.data import sources
from erasediff.files import write_json

OTHER = 1000  # the seed of the second audit lies this far from the first's


def main() -> None:
    given = arguments(__doc__ or "").parse_args()
    data = sources.load(given.data)
    judge = judge_for(None, data, 0, quiet=True, kept=given.output_dir / "judge")
    rows = []
    for seed in given.seeds:
        bench = Bench(given.output_dir / str(seed), data, given.target, seed, given)
        for name in given.cases:
            first = json.loads((bench.audits(name) / "audit.json").read_text())
            second = bench.audited(name, judge, seed=seed + OTHER).result
            compared, apart = disagreements(AuditResult.from_dict(first), second)
            levels = [first["verdict"]["level"], second.verdict.level]
            rows.append({"seed": seed, "case": name, "levels": levels, "compared": compared, "apart": apart})
            print(seed, name, levels, f"{len(apart)} of {compared} intervals do not meet: {apart}", flush=True)
    write_json(given.output_dir / "repeated.json", rows)


def disagreements(first: AuditResult, second: AuditResult) -> tuple[int, list[str]]:
    """How many measures with intervals both audits have, and those whose intervals do not meet."""
    found = []
    for one in first.measurements:
        other = second.find(one.name, one.subject)
        if other is None or None in (one.low, one.high, other.low, other.high):
            continue
        meet = one.low <= other.high and other.low <= one.high  # type: ignore[operator]
        found.append((f"{one.subject}: {one.name}", meet))
    return len(found), [name for name, meet in found if not meet]


if __name__ == "__main__":
    main()
