"""What the runs of a plan share, and how one of their models is audited."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erasediff import families
from erasediff.api.audit import audit
from erasediff.api.directory import AUDIT
from erasediff.api.plan import Plan
from erasediff.auditing.attacks.base import BASE
from erasediff.auditing.classifier import Judge
from erasediff.auditing.result import AuditResult
from erasediff.data.images import ImageData
from erasediff.families.precision import FULL
from erasediff.files import write_json


@dataclass(frozen=True)
class Workshop:
    """What all runs of a plan share. ``expected``: what run.json of each job, by its place, must say."""

    plan: Plan
    place: Path
    data: ImageData
    expected: Mapping[Path, dict[str, Any]]
    command: str
    quiet: bool
    say: Callable[[str], None]

    def hashes(self, model: Any) -> dict[str, str]:
        """SHA-256 of the weights of one of the plan's models."""
        return weights_of(model, self.plan.model_config)


def weights_of(model: Any, config: str | None) -> dict[str, str]:
    """SHA-256 of the weights behind a MODEL argument."""
    return families.hashes(families.locate(model), config)


def examined(
    shop: Workshop,
    model: Any,
    target: Sequence[Any],
    judge: Judge | None,
    asked: Mapping[str, Any],
    place: Path,
    record: dict[str, Any] | None,
    *,
    forgetful: bool = True,
) -> AuditResult:
    """Audit one model alone and write the audit; audit.json comes last, so that where it is, all is."""
    settings, suite = shop.plan.audit, shop.plan.suite
    if not forgetful:  # how fast a model relearns what it never forgot says nothing
        suite = replace(suite, attacks=tuple(a for a in suite.attacks if BASE in a.SUBJECTS))
    done = audit(
        model,
        target=target,
        data=shop.data,
        suite=suite,
        classifier=judge,
        features=settings["features"],
        clip=settings.get("clip"),
        guidance_scale=settings["guidance_scale"],
        mixed_precision=settings.get("mixed_precision", FULL),
        seed=settings["seed"],
        quiet=shop.quiet,
        model_config=shop.plan.model_config if Path(str(model)).is_file() else None,
    )
    done.result.setting.update(asked=dict(asked), command=shop.command)
    place.mkdir(parents=True, exist_ok=True)
    replace(done, run=record).to_html(place / "report.html")
    write_json(place / AUDIT, done.result.to_dict())
    return done.result
