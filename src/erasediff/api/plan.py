"""A comparison as a plan: methods x seeds x targets, read from YAML and checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from erasediff.api.erase import method_named
from erasediff.api.inputs import parsed_targets
from erasediff.api.plan_audit import audit_settings
from erasediff.api.typed import converted, integer, mapping, several, typed
from erasediff.auditing.suite import Suite
from erasediff.data.targets import Target
from erasediff.errors import BadInput, listing, unknown
from erasediff.methods.base import Method
from erasediff.report.rivals import MEASURES
from erasediff.training.config import ERASE_DEFAULTS, TrainingConfig

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
RESERVED = ("base", "retrained")
METHOD_KEYS = ("method", "training", "seeds", "targets")


@dataclass(frozen=True)
class Job:
    """One run that is wanted. ``name``: the target as text; ``place``: its directory below the comparison's.

    ``training``: the settings of the loop that were given, checked; all others are for ``erase`` to decide, as the
    learning rate is by the model's family. ``model_config``: how the model is built where it is a single file.
    """

    label: str
    target: tuple[Target, ...]
    seed: int
    method: Method
    training: Mapping[str, Any]
    model: Any
    model_config: str | None = None

    @property
    def name(self) -> str:
        return listing(self.target)

    @property
    def place(self) -> Path:
        return place_of(self.name, self.label, self.seed)


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
    targets = _targets("targets", given.get("targets"))
    models = _models(given, seeds)
    training = typed("training", TrainingConfig, given.get("training"), refused={"seed": "list seeds under `seeds`"})
    jobs = _jobs(given, seeds, targets, training, models)
    names = {j.name for j in jobs}
    runs = {str(label): _runs(str(label), of, names, seeds) for label, of in mapping("runs", given.get("runs")).items()}
    found = [*dict.fromkeys(j.label for j in jobs), *runs]
    _check_names("methods and runs", found)
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


def _targets(what: str, given: Any) -> dict[str, tuple[Target, ...]]:
    if not isinstance(given, (list, tuple)) or not given:
        raise BadInput(f"{what} must be a list of targets such as class:7, got {given!r}")
    made = [tuple(parsed_targets(entry)) for entry in given]
    named = {listing(target): target for target in made}
    if len(named) < len(made):
        raise BadInput(f"{what} name the same target twice: {listing(listing(t) for t in made)}")
    return named


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


def _jobs(
    given: Mapping[str, Any],
    seeds: Sequence[int],
    targets: Mapping[str, tuple[Target, ...]],
    training: Mapping[str, Any],
    models: Mapping[int, Any],
) -> list[Job]:
    methods = {str(k): v for k, v in mapping("methods", given.get("methods")).items()}
    if not methods:
        raise BadInput("methods must name at least one method, such as `erasediff: {}`")
    _check_names("targets", targets)
    made = []
    for label, settings in methods.items():
        mine = mapping(f"method {label!r}", settings)
        method, own_training = _method(label, mine, training)
        own_seeds = _some(f"seeds of {label}", several("seeds", mine.get("seeds", seeds), integer), seeds)
        own_targets = _targets(f"targets of {label}", mine["targets"]) if "targets" in mine else targets
        own = _some(f"targets of {label}", own_targets, targets)
        built = None if given.get("model_config") is None else str(given["model_config"])
        made += [
            Job(label, targets[t], s, method, {**own_training, "seed": s}, models[s], built)
            for s in own_seeds
            for t in own
        ]
    order = (list(seeds), list(targets), list(methods))
    return sorted(made, key=lambda j: (order[0].index(j.seed), order[1].index(j.name), order[2].index(j.label)))


def _method(label: str, mine: Mapping[str, Any], training: Mapping[str, Any]) -> tuple[Method, dict[str, Any]]:
    named = str(mine.get("method", label))
    kind = type(method_named(named, {}))
    given = {k: v for k, v in mine.items() if k not in METHOD_KEYS}
    allowed = [*METHOD_KEYS, *(f.name for f in fields(kind))]  # type: ignore[arg-type]
    for key in given:
        if key not in allowed:
            raise unknown(f"key of method {label!r}", key, allowed)
    own = typed(
        f"training of {label}", TrainingConfig, mine.get("training"), refused={"seed": "list seeds under `seeds`"}
    )
    replace(ERASE_DEFAULTS, **{**training, **own})  # refuses what cannot be
    return method_named(named, typed(f"method {label}", kind, given)), {**training, **own}


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


def _some(what: str, wanted: Iterable[Any], among: Iterable[Any]) -> list[Any]:
    found, known = list(wanted), list(among)
    wrong = [w for w in found if w not in known]
    if wrong:
        raise BadInput(f"{what}: {listing(wrong)} is not among the plan's: {listing(known)}")
    return found


def _check_names(what: str, names: Iterable[str]) -> None:
    """Labels and targets become directories: none reserved, none that would share one."""
    places: dict[str, str] = {}
    for name in names:
        place = safe_name(name).lower()
        if name in RESERVED or not place:
            raise BadInput(f"{what}: {name!r} cannot be a label; choose another than {listing(RESERVED)}, with letters")
        if place in places:
            raise BadInput(f"{what}: {places[place]!r} and {name!r} would share the directory {place}; rename one")
        places[place] = name


def place_of(name: str, label: str, seed: int) -> Path:
    """Where a run and its audit lie below the comparison's directory."""
    return Path("runs") / safe_name(name) / safe_name(label) / str(seed)


def safe_name(text: str) -> str:
    """``salun (published)`` -> ``salun-published``: letters, digits, dots and dashes, as the name of a directory."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:80]
