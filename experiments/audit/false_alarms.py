"""How often is a retrained model told from another by chance? Resampled comparisons of the answers that are kept.

    python experiments/audit/false_alarms.py digits --output_dir runs/planted --seeds 0 1 2 3 4 --resamples 100

Run after planted.py with the same arguments. Images, samples and seeds are drawn again with replacement, the same in
both models, and every resample is compared as an audit compares; an alarm is any difference called larger than its
margin, after Holm's correction. Writes false_alarms.json.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from planted import SUITE, Bench, arguments
from sklearn.metrics import roc_auc_score

from erasediff.api.judges import judge_for
from erasediff.api.subjects import Subjects
from erasediff.auditing.cache import Cache
from erasediff.auditing.comparison import EQUAL, LOWER, WORSE, compared
from erasediff.auditing.examine import Examination
from erasediff.auditing.finding import Evidence, Finding
from erasediff.auditing.result import ERASED
from erasediff.data import sources
from erasediff.files import write_json


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--resamples", type=int, default=100)
    given = parser.parse_args()
    data = sources.load(given.data)
    judge = judge_for(None, data, 0, quiet=True, kept=given.output_dir / "judge")
    rows = []
    for seed in given.seeds:
        bench = Bench(given.output_dir / str(seed), data, given.target, seed, given)
        others = {"base": bench.base(), "retrained": bench.second()}
        subjects = Subjects.load(bench.case("retrained"), others, given.target, data)
        how = {"guidance_scale": 1.5, "mixed_precision": given.mixed_precision, "seed": seed}
        question = subjects.question(goal="data", judge=judge, features="classifier", suite=SUITE, **how)
        found = answers(Examination.plan(subjects.models, question, Cache(bench.place / "cache")))
        for number in range(given.resamples):
            rng = np.random.default_rng([seed, number])
            drawn = {name: resampled(found[ERASED][name], found["retrained"][name], rng) for name in found[ERASED]}
            pairs = ({n: pair[i] for n, pair in drawn.items()} for i in (0, 1))
            outcomes = [c.outcome for c in compared(*pairs, seed=seed)]
            rows.append(
                {"seed": seed, "alarm": any(o in (WORSE, LOWER) for o in outcomes), "equal": outcomes.count(EQUAL)}
            )
        print(seed, np.mean([r["alarm"] for r in rows if r["seed"] == seed]), flush=True)
    alarms = sum(r["alarm"] for r in rows)
    write_json(given.output_dir / "false_alarms.json", {"alarms": alarms, "of": len(rows), "rows": rows})
    print(f"{alarms} of {len(rows)} resampled comparisons raised an alarm")


def answers(examination: Examination) -> dict[str, dict[str, Finding]]:
    """By subject and name: what the cache knows and what carries evidence. What is not there has to be asked first."""
    found: dict[str, dict[str, Finding]] = {}
    for unit in examination.units:
        for finding in examination.cache.find(unit.key) or unit.ask():
            if finding.evidence is not None:
                found.setdefault(unit.subject, {})[finding.measurement.name] = finding
    return found


def resampled(ours: Finding, theirs: Finding, rng: np.random.Generator) -> tuple[Finding, Finding]:
    """Both findings on the same rows, drawn with replacement."""
    columns = [rng.integers(len(rows), size=len(rows)) for rows in evidence(ours).rows]
    return again(ours, columns), again(theirs, columns)


def again(finding: Finding, columns: list[Any]) -> Finding:
    known = evidence(finding)
    rows = [np.asarray(r)[c] for r, c in zip(known.rows, columns, strict=True)]
    value = float(rows[0].mean())
    if known.statistic == "auc":
        labels = np.concatenate([np.ones(len(rows[0])), np.zeros(len(rows[1]))])
        value = float(roc_auc_score(labels, np.concatenate(rows)))
    kept = replace(known, rows=tuple(tuple(r.tolist()) for r in rows))
    return Finding(replace(finding.measurement, value=value), kept)


def evidence(finding: Finding) -> Evidence:
    if finding.evidence is None:
        raise ValueError(f"{finding.measurement.name} has no evidence")
    return finding.evidence


if __name__ == "__main__":
    main()
