"""Audits of models with a known truth: is each verdict right, and which attack tells what?

    python experiments/audit/planted.py digits --output_dir runs/planted --target class:7 --seeds 0 1 2 3 4
    python experiments/audit/planted.py small-mnist.npz --output_dir runs/planted-mnist --target class:4 \\
        --seeds 0 1 2 --max_train_steps 3000 --erase_steps 240

Models and answers that are there already are kept, so an interrupted call goes on. ``--mixed_precision bf16`` makes the
audits about twice as fast on a CPU; those that drew in another precision are then made again. Writes results.json,
verdicts.md and matrix.md.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from plant import dropped_condition, noise_generator, output_filter, rounded

from erasediff.api.audit import Audit, audit
from erasediff.api.erase import erase, method_named
from erasediff.api.judges import judge_for
from erasediff.api.train import train
from erasediff.auditing.attacks.gradient_membership import GradientMembership
from erasediff.auditing.attacks.inversion import Inversion
from erasediff.auditing.attacks.weight_difference import WeightDifference
from erasediff.auditing.classifier import Judge
from erasediff.auditing.suites import SUITES
from erasediff.data import sources, targets
from erasediff.data.images import ImageData
from erasediff.families import load
from erasediff.families.base import Model
from erasediff.families.precision import AUTOCAST, FULL
from erasediff.files import write_atomic, write_json
from erasediff.methods import METHODS

SIZES = {"forget": 250, "per_class": 80, "unconditional": 400, "num_inference_steps": 12, "resamples": 50}
ATTACKS = (*SUITES["standard"].attacks, GradientMembership(), WeightDifference(), Inversion())
SUITE = replace(SUITES["standard"], name="every attack, samples of quick", attacks=ATTACKS, **SIZES)  # type: ignore[arg-type]
SECOND = 100  # the seed of the retrained model that is compared with lies this far from that of the audited one
SUPERFICIAL = ("superficial",)
ERASED_SOMEHOW = ("superficial", "suppressed", "indistinguishable_from_retrained")
EXPECTED: dict[str, tuple[str, ...]] = {
    "base": ("not_erased",),
    "overfitted": ("not_erased",),
    "retrained": ("indistinguishable_from_retrained",),
    "output filter": SUPERFICIAL,
    "condition dropped": SUPERFICIAL,
    "noise generator": SUPERFICIAL,
    "erasediff": ERASED_SOMEHOW,
    "salun": ("not_erased", *ERASED_SOMEHOW),
    "erasediff, 4 bit": ERASED_SOMEHOW,
}
CASES = list(EXPECTED)
# Every other method that can forget a class; what becomes of the model is the method's affair, so any verdict may be
# right. concept_ablation wants something in the class's place, and uce a model that reads text.
OTHERS = [name for name in METHODS if name not in (*CASES, "uce")]
EXPECTED |= dict.fromkeys(OTHERS, ("not_erased", *ERASED_SOMEHOW))
ORDER = ("not_erased", "superficial", "suppressed", "indistinguishable_from_retrained")


class Bench:
    """All models of one seed below ``place``, made when first asked for."""

    def __init__(self, place: Path, data: ImageData, target: str, seed: int, given: argparse.Namespace) -> None:
        self.place, self.data, self.target, self.seed, self.given = place, data, target, seed, given
        (self.c,) = targets.split([targets.parse(target)], data).classes

    def trained(self, name: str, *, seed: int, exclude: bool) -> Path:
        place = self.place / name
        if not (place / "model").exists():
            train(
                self.data,
                output_dir=place,
                exclude=[self.target] if exclude else [],
                seed=seed,
                max_train_steps=self.given.max_train_steps,
                checkpointing_steps=0,
                overwrite=True,
                quiet=True,
            )
        return place

    def base(self) -> Path:
        return self.trained("base", seed=self.seed, exclude=False)

    def retrained(self) -> Path:
        return self.trained("retrained", seed=self.seed, exclude=True)

    def second(self) -> Path:
        return self.trained("second", seed=self.seed + SECOND, exclude=True)

    def erased(self, method: str, **fields: Any) -> Path:
        place = self.place / method
        if not (place / "model").exists():
            steps = {"max_train_steps": self.given.erase_steps, "seed": self.seed, "checkpointing_steps": 0}
            chosen = method_named(method, fields)
            common = {"output_dir": place, "overwrite": True, "quiet": True, "anchor": self.anchor(method)}
            erase(self.base(), self.target, self.data, chosen, **steps, **common)
        return place

    def anchor(self, method: str) -> str | None:
        """The next class, for the method that cannot do without."""
        names = self.data.class_names
        return f"class:{names[(self.c + 1) % len(names)]}" if method == "concept_ablation" else None

    def overfitted(self) -> Path:
        """The base model trained further on nothing but the forget set."""
        place = self.place / "overfitting"
        if not (place / "model").exists():
            others = [f"class:{n}" for k, n in enumerate(self.data.class_names) if k != self.c]
            erase(
                self.base(),
                others,
                self.data,
                method_named("fine_tune", {}),
                output_dir=place,
                max_train_steps=self.given.erase_steps,
                seed=self.seed,
                checkpointing_steps=0,
                overwrite=True,
                quiet=True,
            )
        # Without the record of that training, which says that all other classes were to be forgotten.
        return self.planted("overfitted", place, lambda model, c: model)

    def planted(self, name: str, source: Path, change: Callable[[Model, int], Model]) -> Path:
        place = self.place / name
        if not (place / "model").exists():
            change(load(source), self.c).save(place / "model")
        return place

    def case(self, name: str) -> Path:
        makers: dict[str, Callable[[], Path]] = {
            "base": self.base,
            "retrained": self.retrained,
            "overfitted": self.overfitted,
            "output filter": lambda: self.planted("filter", self.base(), output_filter),
            "condition dropped": lambda: self.planted("dropped", self.base(), dropped_condition),
            "noise generator": lambda: self.planted("noise", self.base(), noise_generator),
            "erasediff": lambda: self.erased("erasediff"),
            "salun": lambda: self.erased("salun"),
            "erasediff, 4 bit": lambda: self.planted("rounded", self.erased("erasediff"), rounded),
        }
        return makers[name]() if name in makers else self.erased(name)

    def audits(self, name: str) -> Path:
        """Where the audit of a case lies."""
        return self.place / "audits" / folder_of(name)

    def audited(self, name: str, judge: Judge | None, **changes: Any) -> Audit:
        """The case against its base and the second retrained model, by every attack."""
        asked = {"seed": self.seed, "suite": SUITE, "classifier": judge, "cache_dir": self.place / "cache"}
        asked |= {"mixed_precision": self.given.mixed_precision, **changes}
        models = {"base": self.base(), "retrained": self.second()}
        return audit(self.case(name), target=self.target, data=self.data, quiet=True, **models, **asked)


def folder_of(case: str) -> str:
    return case.replace(", ", "-").replace(" ", "-")


def precision_of(path: Path) -> str | None:
    """In which precision the audit drew that is there; earlier ones knew only one."""
    if not path.exists():
        return None
    return str(json.loads(path.read_text())["setting"].get("mixed_precision", FULL))


def arguments(text: str) -> argparse.ArgumentParser:
    """The command line of this folder's scripts."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--target", default="class:7")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cases", nargs="+", default=CASES, choices=list(EXPECTED))
    parser.add_argument("--max_train_steps", type=int, default=700)
    parser.add_argument("--erase_steps", type=int, default=80)
    parser.add_argument("--mixed_precision", default=FULL, choices=list(AUTOCAST), help="of the audits, not the models")
    return parser


def main() -> None:
    given = arguments(__doc__ or "").parse_args()
    data = sources.load(given.data)
    judge = judge_for(None, data, 0, quiet=True, kept=given.output_dir / "judge")
    for seed in given.seeds:
        bench = Bench(given.output_dir / str(seed), data, given.target, seed, given)
        for name in given.cases:
            place = bench.audits(name)
            if precision_of(place / "audit.json") != given.mixed_precision:
                bench.audited(name, judge, output_dir=place, overwrite=True)
            verdict = json.loads((place / "audit.json").read_text())["verdict"]
            print(seed, name, verdict["level"], verdict["exposed_by"], flush=True)
    _report(given)


def _report(given: argparse.Namespace) -> None:
    rows, told = [], {}
    for path in sorted(given.output_dir.glob("*/audits/*/audit.json")):
        record = json.loads(path.read_text())
        name = next(n for n in EXPECTED if folder_of(n) == path.parent.name)
        level = record["verdict"]["level"]
        right = level in EXPECTED[name]
        drawn = record["setting"].get("mixed_precision", FULL)
        found = {"seed": int(path.parts[-4]), "case": name, "right": right, "mixed_precision": drawn}
        rows.append({**found, **record["verdict"]})
        for c in record["setting"]["comparisons"]:
            told.setdefault(c["name"], {}).setdefault(name, []).append(c)
    summary = {"verdicts": rows, "right": sum(r["right"] for r in rows), "of": len(rows)}
    attacks = {n: {case: _cell(cs) for case, cs in by.items()} for n, by in told.items()}
    write_json(given.output_dir / "results.json", {**summary, "attacks": attacks})
    cases = [c for c in EXPECTED if any(r["case"] == c for r in rows)]
    lines = ["| measure | " + " | ".join(cases) + " |", "|---|" + "---:|" * len(cases)]
    for name, by in attacks.items():
        cells = [by[c]["text"] if c in by else "-" for c in cases]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    verdicts = _verdicts(rows, cases)
    write_atomic(given.output_dir / "verdicts.md", verdicts)
    write_atomic(given.output_dir / "matrix.md", "\n".join(lines) + "\n")
    print(verdicts, *lines, sep="\n")
    print(f"right: {summary['right']} of {summary['of']}")


def _verdicts(rows: list[dict[str, Any]], cases: list[str]) -> str:
    """How often each case got which verdict, and what exposed it."""
    lines = ["| case | verdicts | exposed by |", "|---|---|---|"]
    for case in cases:
        mine = [row for row in rows if row["case"] == case]
        levels = Counter(row["level"] for row in mine).most_common()
        exposed = Counter(name.replace("_", " ") for row in mine for name in row["exposed_by"]).most_common()
        said = ", ".join(f"`{level}` {count}" for level, count in levels)
        lines.append(f"| {case} | {said} | {', '.join(f'{name} {count}' for name, count in exposed) or '-'} |")
    return "\n".join(lines) + "\n"


def _cell(comparisons: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean difference from the retrained model, and in how many seeds it was told apart."""
    differences = [c["difference"] for c in comparisons]
    alarms = sum(c["outcome"] in ("beyond the margin", "below by more than the margin") for c in comparisons)
    equal = sum(c["outcome"] == "within the margin" for c in comparisons)
    text = f"{np.mean(differences):+.2f} ({alarms}/{equal}/{len(comparisons)})"
    return {"differences": differences, "told_apart": alarms, "shown_equal": equal, "text": text}


if __name__ == "__main__":
    main()
