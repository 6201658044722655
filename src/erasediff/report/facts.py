"""How a model was made and measured, as pairs of a label and a text; tolerant of records that lack entries."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from erasediff.auditing.result import ERASED, AuditResult
from erasediff.report.numbers import count, duration, percent
from erasediff.report.vocabulary import measure, target_parts

SPOKEN = "prompts"
"""What an audit of a concept without images says in the place of its data (:mod:`erasediff.api.spoken`)."""
Facts = list[tuple[str, str]]

_NAMES = {
    "features": "Feature space",
    "guidance_scale": "Guidance scale",
    "num_inference_steps": "sampling steps",
    "per_class": "samples a class",
    "sha256": "SHA-256",
}
_WHERE_SAID = ("command", "models", "versions", "machine", "classifier", "model_hashes", "comparisons")
_ELSEWHERE = {*_WHERE_SAID, "model_weights", "request"}  # said elsewhere, or too long to be


def making(run: Mapping[str, Any]) -> Facts:
    """What ``run.json`` says about how the model came to be: method, data, steps, cost."""
    method, data, cost = (_mapping(run.get(key)) for key in ("method", "data", "cost"))
    lora = _mapping(run.get("lora"))
    base, stopped = _mapping(run.get("base_model")), _mapping(run.get("stopped"))
    target = run.get("target")
    known: dict[str, Any] = {
        "Target": ", ".join(map(str, target)) if isinstance(target, list) else target,
        "Method": method.get("name") or (run.get("method") if isinstance(run.get("method"), str) else None),
        "Paper": method.get("paper"),
        "Settings": plain(method.get("fields")),
        "LoRA": plain({k: lora[k] for k in ("rank", "alpha") if k in lora}),
        "Started from": plain(_mapping(run.get("init"))),
        "Base model": _base(base) or run.get("base_model_id"),
        "Data": data.get("spec"),
        "Samples": count(data["n"]) if isinstance(data.get("n"), int) else None,
        "Seed": run.get("seed"),
        "Steps": count(run["steps"]) if isinstance(run.get("steps"), int) else None,
        "Stopped": plain(stopped.get("reason")),
        "Cost": spent(cost),
    }
    return [(label, str(value)) for label, value in known.items() if value not in (None, "", "{}")]


def _base(base: Mapping[str, Any]) -> object:
    """Where the base model came from: its name and revision on the Hub, else its path."""
    name, revision = base.get("id"), base.get("revision")
    return (f"{name} at revision {revision}" if revision else name) if name else base.get("source")


def measuring(result: AuditResult) -> Facts:
    """Instruments, sampling and seeds of an audit."""
    setting, facts = result.setting, []
    judge = setting.get("classifier")
    if isinstance(judge, Mapping):
        facts.append(("Judge", _judge(judge)))
    elif judge is not None:
        facts.append(("Judge", plain(judge)))
    for key, value in {**setting, "suite": _without_attacks(setting.get("suite"))}.items():
        if key not in _ELSEWHERE and value not in (None, "", {}, []):
            facts.append((_label(key), plain(value)))
    if spread := _over_seeds(result):
        facts.append(("From one sampling seed to another", spread))
    for name, source in _mapping(setting.get("models")).items():
        facts.append((f"Model: {name}", plain(source)))
    for name, digest in _mapping(setting.get("model_hashes")).items():
        facts.append((f"SHA-256: {name}", plain(digest)))
    return facts


def _over_seeds(result: AuditResult) -> str:
    """The least and the most that one sampling seed alone gave, for every share of the audited model that has them."""
    told = []
    for m in result.measurements:
        found = m.detail.get("by_seed") if m.subject == ERASED else None
        if isinstance(found, (list, tuple)) and found:
            title = measure(m.name, m.group).title
            told.append(f"{title} {percent(min(found))} to {percent(max(found))} (of {len(found)} seeds)")
    return "; ".join(told)


def surroundings(result: AuditResult) -> str:
    """Versions and machine in one line, as far as they are recorded."""
    versions, machine = (_mapping(result.setting.get(key)) for key in ("versions", "machine"))
    named = [f"{name} {version}" for name, version in versions.items() if version]
    return ", ".join([*named, *(str(machine[k]) for k in ("platform",) if k in machine)])


def command(result: AuditResult) -> str:
    """The command line that repeats the audit: the recorded one, else put together from the setting; may be empty."""
    given, setting = result.setting.get("command"), result.setting
    if given:
        return shlex.join(map(str, given)) if isinstance(given, (list, tuple)) else str(given)
    models = _mapping(setting.get("models"))
    if "erased" not in models:
        return ""
    words = ["erasediff", "audit", str(models["erased"])]
    words += [w for name, source in models.items() if name != "erased" for w in (f"--{name}", str(source))]
    for target in target_parts(result.target):
        words += ["--target", target]
    flags = {
        "data": _real(_mapping(setting.get("data")).get("spec")),
        "goal": result.verdict.goal,
        "suite": _mapping(setting.get("suite")).get("name"),
        "features": setting.get("features"),
        "guidance_scale": setting.get("guidance_scale"),
        "mixed_precision": setting.get("mixed_precision"),
        "seed": setting.get("seed"),
        "classifier": _mapping(setting.get("request")).get("classifier"),
        "prompt_template": _mapping(setting.get("request")).get("prompt_template"),
        "clip": _mapping(setting.get("request")).get("clip"),
        "model_config": _mapping(setting.get("request")).get("model_config"),
    }
    words += [w for flag, value in flags.items() if value is not None for w in (f"--{flag}", str(value))]
    return shlex.join([*words, *_attacks(setting), "--output_dir", "audit"])


def _real(spec: object) -> object:
    """What ``--data`` takes again; nothing for an audit in words alone, whose prompts follow from the target."""
    return None if spec == SPOKEN else spec


def _attacks(setting: Mapping[str, Any]) -> list[str]:
    """``--attacks ...`` where they are not the suite's own."""
    suite = _mapping(setting.get("suite"))
    listed = suite.get("attacks")
    if not isinstance(listed, (list, tuple)):
        return []
    from erasediff.auditing.suites import SUITES  # loads every attack

    known = SUITES.get(str(suite.get("name")))
    names = [str(_mapping(a).get("name", a)) for a in listed]
    if known is None or names == [a.name for a in known.attacks]:
        return []
    return ["--attacks", *(names or ["none"])]


def _without_attacks(suite: object) -> object:
    """The suite's numbers of samples; the attacks with their budgets have a section of their own."""
    return {k: v for k, v in suite.items() if k != "attacks"} if isinstance(suite, Mapping) else suite


def plain(value: object) -> str:
    """Nested values as one line: ``eta 0.1, rule dynamic_barrier``."""
    if isinstance(value, Mapping):
        named = [(_NAMES.get(str(k), _spaced(k)), plain(v)) for k, v in value.items() if v is not None]
        return ", ".join(text if label in ("name", "spec") else f"{label} {text}" for label, text in named)
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(v) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def _judge(judge: Mapping[str, Any]) -> str:
    name, accuracy, n = str(judge.get("name", "a classifier")), judge.get("held_out_accuracy"), judge.get("held_out_n")
    if not isinstance(accuracy, float):
        return name
    of = f" {count(n)}" if isinstance(n, int) else ""
    return f"{name}; right on {percent(accuracy)} of{of} held-out images"


def spent(cost: Mapping[str, Any]) -> str:
    """``14.2 s, 740 forward equivalents, 0.53 GiB peak memory``, as far as it is recorded."""
    parts = [duration(float(cost["seconds"]))] if isinstance(cost.get("seconds"), (int, float)) else []
    if isinstance(cost.get("forward_equivalents"), (int, float)):
        parts.append(f"{cost['forward_equivalents']:,.0f} forward equivalents")
    if isinstance(cost.get("peak_memory_bytes"), (int, float)):
        parts.append(f"{cost['peak_memory_bytes'] / 2**30:.2f} GiB peak memory")
    return ", ".join(parts)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _label(key: str) -> str:
    return _NAMES.get(key, _spaced(key).capitalize())


def _spaced(key: object) -> str:
    return str(key).replace("_", " ")
