"""A comparison as a plan: methods x seeds x targets, read from YAML and checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from erasediff.api.inputs import parsed_targets
from erasediff.api.plan_audit import audit_settings
from erasediff.api.plan_jobs import Job, check_names, jobs_of, targets_named, training_settings
from erasediff.api.typed import converted, integer, mapping, several
from erasediff.auditing.suite import Suite
from erasediff.data.targets import Target
from erasediff.errors import BadInput, listing, unknown
from erasediff.report.rivals import MEASURES

KEYS = {
    "model": "the base model, one for all seeds",
    "models": "the base model of each seed",
    "model_config": "how models that are single files are built",
    "retrained": "target -> seed -> a model trained without the target, or one path for all seeds",
    "runs": "label -> target -> seed -> a run made elsewhere, which takes part as it is",
    "data": "where forget and retain samples come from; by default what the base run says",
    "targets": "what is forgotten: a list; an entry that is a list is forgotten together",
    "seeds": "seeds of the runs",
    "methods": "label -> method, its fields, training, seeds, targets",
    "training": "settings of the loop for all methods",
    "audit": (
        "suite and its sizes, attacks (by default extraction and membership), classifier, features, clip, "
        "guidance_scale, mixed_precision, seed"
    ),
    "control": "label of the control, which is fine-tuned and does not try to forget",
    "reference": "label that the others are tested and timed against",
    "margins": "measure -> difference below which two methods count as equal",
    "race": "a race.json with times to a target",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A comparison that was asked for. ``jobs``: by seed, then target, then method, so that pairs come together."""

    jobs: Sequence[Job]
    models: Mapping[int, Any]
    retrained: Mapping[str, Mapping[int | None, Any]]
    runs: Mapping[str, Mapping[str, Mapping[int, Any]]]
    data: Any
    suite: Suite
    audit: Mapping[str, Any]
    reference: str | None
    control: str | None
    race: Path | None
    margins: Mapping[str, float] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_config(self) -> str | None:
        """How those of the models are built that are single files."""
        return self.jobs[0].model_config

    def targets(self) -> dict[str, tuple[Target, ...]]:
        """Name of a target -> what is erased."""
        return {j.name: j.target for j in self.jobs}


def is_plan(runs: Any) -> bool:
    """Whether what was given to compare is a plan: a mapping, or one path that ends in .yaml or .yml."""
    named = [runs] if isinstance(runs, (str, Path)) else runs
    return isinstance(runs, Mapping) or (len(named) == 1 and Path(named[0]).suffix in (".yaml", ".yml"))


def read_plan(source: Any) -> Plan:
    """A plan from a file or a mapping. Raises BadInput, with the nearest real name, for what cannot be meant."""
    if isinstance(source, Mapping):
        return parse(source, "the plan")
    path = Path(source if isinstance(source, (str, Path)) else source[0])
    try:
        loaded = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadInput(f"plan {path} cannot be read: {str(error.strerror).lower()}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"plan {path} is not YAML: {' '.join(str(error).split())}") from None
    return parse(loaded, str(path))


def parse(content: Any, where: str = "the plan") -> Plan:
    """The content of a plan file as a Plan. ``where`` names it in errors."""
    given = mapping(where, content)
    for key in given:
        if key not in KEYS:
            raise unknown(f"key of {where}", key, KEYS)
    seeds = several("seeds", given.get("seeds", [0]), integer)
    targets = targets_named("targets", given.get("targets"))
    models = _models(given, seeds)
    training = training_settings("training", given.get("training"))
    jobs = jobs_of(given, seeds, targets, training, models)
    names = {j.name for j in jobs}
    runs = {str(label): _runs(str(label), of, names, seeds) for label, of in mapping("runs", given.get("runs")).items()}
    found = [*dict.fromkeys(j.label for j in jobs), *runs]
    check_names("methods and runs", found)
    suite, audit = audit_settings(given.get("audit"))
    control = _label("control", given.get("control"), found)
    reference = _label("reference", given.get("reference"), found)
    if control is not None and reference == control:
        raise BadInput(f"control and reference are both {control!r}; the reference is the method that is judged")
    return Plan(
        jobs=jobs,
        models=models,
        retrained=_retrained(given.get("retrained"), names, seeds),
        runs=runs,
        data=given.get("data"),
        suite=suite,
        audit=audit,
        reference=reference or next((s for s in ("erasediff", *found) if s in found and s != control), None),
        control=control,
        race=Path(str(given["race"])) if given.get("race") else None,
        margins=_margins(given.get("margins")),
        content=given,
    )


def _models(given: Mapping[str, Any], seeds: Sequence[int]) -> dict[int, Any]:
    if ("model" in given) == ("models" in given):
        raise BadInput("a plan needs either model (one for all seeds) or models (seed -> model)")
    if "model" in given:
        return dict.fromkeys(seeds, given["model"])
    made = {integer("a seed of models", k): v for k, v in mapping("models", given["models"]).items()}
    missing = [s for s in seeds if s not in made]
    if missing:
        raise BadInput(f"models has no base model for seed {listing(missing)}; it has them for {listing(made)}")
    return {s: made[s] for s in seeds}


def _retrained(given: Any, names: set[str], seeds: Sequence[int]) -> dict[str, dict[int | None, Any]]:
    made: dict[str, dict[int | None, Any]] = {}
    for target, runs in mapping("retrained", given).items():
        name = _among("retrained", target, names)
        one_each = isinstance(runs, Mapping)
        made[name] = dict(_by_seed("retrained", runs, seeds).items()) if one_each else {None: runs}
    return made


def _runs(label: str, given: Any, names: set[str], seeds: Sequence[int]) -> dict[str, dict[int, Any]]:
    what = f"runs of {label}"
    return {_among(what, t, names): _by_seed(what, of, seeds) for t, of in mapping(what, given).items()}


def _among(what: str, target: Any, names: set[str]) -> str:
    """The name of a target of the plan. Raises BadInput for another."""
    name = listing(parsed_targets([part.strip() for part in re.split(r",\s*(?=\w+:)", str(target))]))
    if name not in names:
        raise unknown(f"target of {what}", name, names)
    return name


def _by_seed(what: str, given: Any, seeds: Sequence[int]) -> dict[int, Any]:
    """What is given for the plan's seeds, in their order."""
    by_seed = {integer(f"a seed of {what}", k): v for k, v in mapping(what, given).items()}
    return {s: by_seed[s] for s in seeds if s in by_seed}


def _margins(given: Any) -> dict[str, float]:
    made = {}
    for name, value in mapping("margins", given).items():
        if name not in MEASURES:
            raise unknown("measure of margins", name, MEASURES)
        made[name] = converted(f"margins: {name}", float, value)
        if not made[name] > 0:
            raise BadInput(f"margins: {name} must be above 0, got {value}")
    return made


def _label(what: str, given: Any, found: Sequence[str]) -> str | None:
    if given is None:
        return None
    if str(given) not in found:
        raise unknown(f"{what} (a label of methods)", str(given), found)
    return str(given)
