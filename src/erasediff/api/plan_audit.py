"""How the runs of a plan are audited: its section ``audit``."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from erasediff.api.typed import converted, mapping, typed
from erasediff.auditing.metrics.balls import NEIGHBOURS
from erasediff.auditing.metrics.diversity import FEWEST_ROWS
from erasediff.auditing.suite import Suite
from erasediff.auditing.suites import SUITES, with_attacks
from erasediff.errors import BadInput, check_one_of, listing, unknown
from erasediff.families.precision import AUTOCAST, FULL

LEAST = {"per_class": FEWEST_ROWS, "unconditional": NEIGHBOURS + 1}
"""Below these nothing can be measured on what is drawn; all other sizes begin at 1."""
ATTACKED = ("extraction", "membership")  # cheap, and for a target of samples the very question
AUDIT_FIELDS = {
    "classifier": str,
    "features": str,
    "clip": str,
    "guidance_scale": float,
    "mixed_precision": str,
    "seed": int,
}


def audit_settings(given: Any) -> tuple[Suite, dict[str, Any]]:
    """The suite with its changed sizes, its name saying which, and what else the audits are called with.

    Raises BadInput for unknown keys and bad values.
    """
    settings = mapping("audit", given)
    sizes = [f.name for f in fields(Suite) if f.name not in ("name", "attacks")]
    for key in settings:
        if key not in ("suite", "attacks", *AUDIT_FIELDS, *sizes):
            raise unknown("key of audit", key, ("suite", "attacks", *AUDIT_FIELDS, *sizes))
    named = str(settings.get("suite", "standard"))
    check_one_of("suite", named, SUITES)
    changed = typed("audit", Suite, {k: v for k, v in settings.items() if k in sizes})
    for name, value in changed.items():
        if value < LEAST.get(name, 1):
            raise BadInput(f"audit: {name} must be at least {LEAST.get(name, 1)}, got {settings[name]}")
    attacks = settings.get("attacks", ATTACKED)
    if not isinstance(attacks, (list, tuple)):
        raise BadInput(f"audit: attacks must be a list of names, got {attacks!r}")
    suite = with_attacks(SUITES[named], [str(a) for a in attacks])
    said = [f"{k} {v}" for k, v in changed.items()] + ([f"attacks {listing(attacks)}"] if "attacks" in settings else [])
    suite = replace(suite, **changed, name=", ".join([named, *said]))
    given_fields = {k: kind for k, kind in AUDIT_FIELDS.items() if settings.get(k) is not None}
    rest = {k: converted(f"audit: {k}", kind, settings[k]) for k, kind in given_fields.items()}
    check_one_of("audit: mixed_precision", rest.get("mixed_precision", FULL), AUTOCAST)
    if rest.get("mixed_precision") == FULL:  # as in plans from before there was a choice: their audits are still good
        del rest["mixed_precision"]
    return suite, {"features": "classifier", "guidance_scale": 1.5, "seed": 0, **rest}
