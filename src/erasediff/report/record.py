"""The deletion record: what was asked, what was done, what was found, for a file that someone signs.

It holds no image and no name of a sample: a target of samples or a concept is described by the hash of its text. It
says what was measured and never more than the verdict does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from math import isfinite
from typing import Any

from erasediff.auditing.result import ERASED, AuditResult, Measurement
from erasediff.errors import BadInput
from erasediff.report.against import comparisons
from erasediff.report.attacked import attacks, brought_back, drawn_when_asked, reviving
from erasediff.report.numbers import interval, number
from erasediff.report.vocabulary import AGAINST, attack_title, measure, ordered_subjects, target_parts

SCHEMA = 1
ONE = "weights"
"""Stands for the weight files of a model of which one hash alone is known."""
NAMED = ("class",)
"""Kinds of target that a record may name; of others it holds a hash, since they may name a person."""

STATEMENTS = {
    "not_erased": "The deletion did not succeed: the audited model still produces the target.",
    "superficial": (
        "The deletion is superficial: the audited model does not draw the target when asked for it, and an attack "
        "brought it back without new data of the target."
    ),
    "superficial when asked": (
        "The deletion is superficial: asked for the target, the audited model draws it more often than a model "
        "retrained without the target does, though less often than counts as still there{attacks}."
    ),
    "suppressed": (
        "The target is suppressed: the audited model does not draw it when asked{attacks}. That nothing of it is "
        "left was not shown."
    ),
    "indistinguishable_from_retrained": (
        "On every comparison that equality requires, the audited model was shown to differ from a model retrained "
        "without the target by less than the margin stated. This holds for these measures, sample numbers and seeds."
    ),
    "no_verdict": "No verdict was reached: what was measured does not say whether the target is gone.",
}
NOT_CLAIMED = (
    "It is not claimed that no information about the target is left in the weights, that attacks which were not made "
    "would fail, or that the model is differentially private. Other copies of the model, the model before erasing, the "
    "training data and images drawn earlier are outside this record. It is evidence for an assessment, not a legal one."
)
BLANK: dict[str, Any] = {
    **dict.fromkeys(("date", "request", "statement", "not_claimed", "steps", "data_sha256", "audit_sha256"), ""),
    **{"seeds": {}, "versions": {}, "signature": {"name": "", "role": "", "date": "", "signature": ""}},
}
KEPT = ("retain_accuracy", "retain_accuracy_neighbours", "frechet_distance")
EVIDENCE = ("forget_rate_faithful", "forget_rate_unconditional", "regeneration_rate", *KEPT)
PREFIXES = ("attack_success_", "relearn_k", "mia_auc_", "inversion_auc")


def deletion_record(
    result: AuditResult,
    run: Mapping[str, Any] | None,
    *,
    request: str | None,
    date: str,
    audit_sha256: str = "",
) -> dict[str, Any]:
    """The record of one erasure and its audit; JSON without NaN.

    Args:
        result: the audit. run: the erased model's run.json.
        request: what was asked for, in the words of whoever keeps the record.
        date: ISO 8601. audit_sha256: of the content of audit.json.

    Raises:
        BadInput: a date of another form, or a run whose weights are not those that were audited.
    """
    _check_date(date)
    run, setting, made = run or {}, result.setting, attacks(result)
    return {
        "schema": SCHEMA,
        "date": date,
        "request": request or "",
        "target": _target(result, run),
        "method": _method(run),
        "models": _models(result, run),
        "data_sha256": str(_of(setting, "data").get("sha256") or _of(run, "data").get("sha256") or ""),
        "seeds": {"erasing": run.get("seed"), "audit": setting.get("seed")},
        "steps": run.get("steps"),
        "cost": dict(_of(run, "cost")),
        "verdict": {
            "goal": result.verdict.goal,
            "level": result.verdict.level,
            "because": [str(reason) for reason in result.verdict.because],
            "exposed_by": [str(name) for name in result.verdict.exposed_by],
            "not_tested": [dict(entry) for entry in result.verdict.not_tested],
        },
        "attacks": [{"name": a.name, "budget": a.budget, "outcome": a.says} for a in made],
        "evidence": [_measured(m) for m in result.measurements if _is_evidence(m)],
        "comparisons": [_compared(c) for c in comparisons(result)],
        "audit_sha256": audit_sha256,
        "versions": dict(_of(setting, "versions") or _of(run, "versions")),
        "statement": _statement(result),
        "not_claimed": NOT_CLAIMED,
        "signature": dict(BLANK["signature"]),
    }


def _statement(result: AuditResult) -> str:
    """The verdict in a sentence. Attacks that look for traces never try to bring the target back: they do not count."""
    level, tried = result.verdict.level, len(reviving(result))
    if drawn_when_asked(result):
        told = ", and an attack brought it back without new data of it" if brought_back(result) else ""
        return STATEMENTS["superficial when asked"].replace("{attacks}", told)
    told = "; no attack tried to bring it back"
    if tried:
        several = f"none of the {tried} attacks that try to bring it back succeeded"
        told = f", and {several if tried > 1 else 'the one attack that tries to bring it back failed'}"
    return STATEMENTS.get(level, STATEMENTS["no_verdict"]).replace("{attacks}", told)


def _check_date(date: str) -> None:
    try:
        datetime.fromisoformat(date)
    except ValueError:
        raise BadInput(f"date {date!r} is not ISO 8601; give one like 2026-01-31") from None


def _method(run: Mapping[str, Any]) -> dict[str, Any]:
    """How it was erased, without the fields that name a file or folder of whoever erased it."""
    made = _chosen(run.get("method"), "name", "fields", "paper")
    if "fields" in made:
        made["fields"] = {k: v for k, v in _of(made, "fields").items() if not (_names_path(k) or _is_path(v))}
    return made


def _names_path(field: object) -> bool:
    return str(field).endswith(("_file", "_dir", "_path"))


def _is_path(value: object) -> bool:
    return isinstance(value, str) and (value.startswith(("/", "~", "./", "../")) or value[1:3] == ":\\")


def _target(result: AuditResult, run: Mapping[str, Any]) -> dict[str, Any]:
    """Each part by kind and hash; ``samples``: how many were to be forgotten, all parts together."""
    described = []
    for part in target_parts(result.target):
        kind, colon, _ = part.partition(":")
        digest = hashlib.sha256(part.encode()).hexdigest()
        described.append({"kind": kind if colon else "other", "sha256": digest, "named": part if kind in NAMED else ""})
    return {"parts": described, "samples": _of(run, "plan").get("forget_samples")}


def _models(result: AuditResult, run: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """SHA-256 of the weights, file by file where the run knows the files. Raises BadInput for another model's run."""
    before, after = _of(_of(run, "base_model"), "sha256"), _of(run, "weights")
    audited = {subject: _audited(result, subject) for subject in ("base", ERASED, "retrained")}
    if after and audited[ERASED] and not _same(audited[ERASED], after):
        raise BadInput("the run's weights are not those that were audited: a record of both would be false")
    made = {"before": before or audited["base"], "after": after or audited[ERASED], "retrained": audited["retrained"]}
    return {name: {str(k): str(v) for k, v in hashes.items()} for name, hashes in made.items() if hashes}


def _audited(result: AuditResult, subject: str) -> Mapping[str, Any]:
    """The hash of each weight file of an audited model; of an audit from before these were recorded only one."""
    found = _of(_of(result.setting, "model_weights"), subject)
    single = _of(result.setting, "model_hashes").get(subject)
    return found or ({ONE: str(single)} if single else {})


def _same(audited: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether the run has all weights that were audited and no other; an old audit knows one of its files."""
    return audited[ONE] in run.values() if set(audited) == {ONE} else dict(audited) == dict(run)


def _is_evidence(found: Measurement) -> bool:
    return found.group != AGAINST and (found.name in EVIDENCE or found.name.startswith(PREFIXES))


def _measured(m: Measurement) -> dict[str, Any]:
    bounds = {"value": _finite(m.value), "low": _finite(m.low), "high": _finite(m.high)}
    return {"name": m.name, "subject": m.subject, **bounds, "n": m.n}


def _compared(c: Mapping[str, Any]) -> dict[str, Any]:
    numbers = ("erased", "retrained", "difference", "low", "high", "margin")
    words = {key: str(c.get(key, "")) for key in ("attack", "role", "outcome")}
    return {**words, **{key: _finite(c.get(key)) for key in numbers}, "n": c.get("n")}


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and isfinite(value) else None


def _chosen(value: object, *keys: str) -> dict[str, Any]:
    return {key: value[key] for key in keys if value.get(key)} if isinstance(value, Mapping) else {}


def _of(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def render_record(record: Mapping[str, Any]) -> str:
    """The record as one printable page with lines to sign on; the same input gives the same bytes.

    ``record``: of :func:`deletion_record`, or read back from its file; entries may be missing.
    """
    from erasediff.report.facts import plain, spent
    from erasediff.report.page import environment

    parts = [p for p in _of(record, "target").get("parts") or [] if isinstance(p, Mapping)]
    page = environment().get_template("record.html.jinja")
    return str(
        page.render(
            record={**BLANK, **record, "signature": {**BLANK["signature"], **_of(record, "signature")}},
            plain=plain,
            cost=spent(_of(record, "cost")),
            method=_of(record, "method"),
            target=_of(record, "target"),
            parts=parts,
            models=_of(record, "models"),
            verdict=_of(record, "verdict"),
            level=str(_of(record, "verdict").get("level", "no_verdict")).replace("_", " "),
            evidence=_table([e for e in record.get("evidence") or [] if isinstance(e, Mapping)]),
            comparisons=[_row(c) for c in record.get("comparisons") or [] if isinstance(c, Mapping)],
            attack_title=attack_title,
        )
    )


def _table(evidence: list[Mapping[str, Any]]) -> dict[str, Any]:
    """A row a measure, a column a subject."""
    subjects = ordered_subjects(str(e.get("subject", "")) for e in evidence)
    names = dict.fromkeys(str(e.get("name", "")) for e in evidence)
    cells = {(str(e.get("name", "")), str(e.get("subject", ""))): e for e in evidence}
    rows = [(measure(name, "").title, [_cell(cells.get((name, s))) for s in subjects]) for name in names]
    return {"subjects": subjects, "rows": rows}


def _cell(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "–", ""
    return number(_finite(found.get("value")), 3), interval(_finite(found.get("low")), _finite(found.get("high")), 3)


def _row(c: Mapping[str, Any]) -> list[str]:
    low, high = _finite(c.get("low")), _finite(c.get("high"))
    difference = f"{number(_finite(c.get('difference')), 3)} {interval(low, high, 3)}"
    margin = number(_finite(c.get("margin")))
    return [attack_title(str(c.get("attack", ""))), difference, margin, str(c.get("outcome", ""))]
