"""The runs that a plan asks for: each method with each seed and target, and where each lies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from erasediff.api.erase import method_named
from erasediff.api.inputs import parsed_targets
from erasediff.api.typed import integer, mapping, several, typed
from erasediff.data.targets import Target
from erasediff.errors import BadInput, listing, unknown
from erasediff.methods.base import Method
from erasediff.training.config import ERASE_DEFAULTS, TrainingConfig

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


def jobs_of(
    given: Mapping[str, Any],
    seeds: Sequence[int],
    targets: Mapping[str, tuple[Target, ...]],
    training: Mapping[str, Any],
    models: Mapping[int, Any],
) -> list[Job]:
    """By seed, then target, then method, so that pairs come together. Raises BadInput for what cannot be meant."""
    methods = {str(k): v for k, v in mapping("methods", given.get("methods")).items()}
    if not methods:
        raise BadInput("methods must name at least one method, such as `erasediff: {}`")
    check_names("targets", targets)
    made = []
    for label, settings in methods.items():
        mine = mapping(f"method {label!r}", settings)
        method, own_training = _method(label, mine, training)
        own_seeds = _some(f"seeds of {label}", several("seeds", mine.get("seeds", seeds), integer), seeds)
        own_targets = targets_named(f"targets of {label}", mine["targets"]) if "targets" in mine else targets
        own = _some(f"targets of {label}", own_targets, targets)
        built = None if given.get("model_config") is None else str(given["model_config"])
        made += [
            Job(label, targets[t], s, method, {**own_training, "seed": s}, models[s], built)
            for s in own_seeds
            for t in own
        ]
    order = (list(seeds), list(targets), list(methods))
    return sorted(made, key=lambda j: (order[0].index(j.seed), order[1].index(j.name), order[2].index(j.label)))


def targets_named(what: str, given: Any) -> dict[str, tuple[Target, ...]]:
    """Name -> target of a list of a plan. Raises BadInput for no list, an empty one, and the same twice."""
    if not isinstance(given, (list, tuple)) or not given:
        raise BadInput(f"{what} must be a list of targets such as class:7, got {given!r}")
    made = [tuple(parsed_targets(entry)) for entry in given]
    named = {listing(target): target for target in made}
    if len(named) < len(made):
        raise BadInput(f"{what} name the same target twice: {listing(listing(t) for t in made)}")
    return named


def training_settings(what: str, given: Any) -> dict[str, Any]:
    """Settings of the loop that were given, checked. Raises BadInput for others, and for a seed: plans list seeds."""
    return typed(what, TrainingConfig, given, refused={"seed": "list seeds under `seeds`"})


def _method(label: str, mine: Mapping[str, Any], training: Mapping[str, Any]) -> tuple[Method, dict[str, Any]]:
    named = str(mine.get("method", label))
    kind = type(method_named(named, {}))
    given = {k: v for k, v in mine.items() if k not in METHOD_KEYS}
    allowed = [*METHOD_KEYS, *(f.name for f in fields(kind))]  # type: ignore[arg-type]
    for key in given:
        if key not in allowed:
            raise unknown(f"key of method {label!r}", key, allowed)
    own = training_settings(f"training of {label}", mine.get("training"))
    replace(ERASE_DEFAULTS, **{**training, **own})  # refuses what cannot be
    return method_named(named, typed(f"method {label}", kind, given)), {**training, **own}


def _some(what: str, wanted: Iterable[Any], among: Iterable[Any]) -> list[Any]:
    found, known = list(wanted), list(among)
    wrong = [w for w in found if w not in known]
    if wrong:
        raise BadInput(f"{what}: {listing(wrong)} is not among the plan's: {listing(known)}")
    return found


def check_names(what: str, names: Iterable[str]) -> None:
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
