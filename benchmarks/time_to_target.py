"""How long each method takes to reach one line on one base model, on one machine, in one run: ratios only.

    python benchmarks/time_to_target.py --base runs/base-0 --data small-mnist.npz --target class:7 \
        --classifier runs/judge --seeds 0 1 2 --methods benchmarks/published.yaml --output_dir runs/race

The line: forget rate <= 0.02 and Frechet distance of the retained classes <= 1.10 times the base model's, on 500
samples, and again on a second sampling seed. Time is processor time of a method's own work, every stage of it; what
measuring takes does not count. Within a seed the methods take turns, whoever has used least goes next, each until
its next look; the reference runs first, since the others' limit is a multiple of its time, and once more at the end:
how far its two times are apart is printed as drift. A method that has not arrived at the limit counts as "more than",
one whose own steps were over before it as "never".

Writes race.json after every run, goes on where it stopped, and prints a table.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import yaml
from contestants import Contestant, OutOfTime
from line import Line

from erasediff.api.inputs import load_model
from erasediff.api.workshop import weights_of
from erasediff.auditing.classifier import Judge
from erasediff.data import sources, targets
from erasediff.families.precision import AUTOCAST, FULL
from erasediff.files import read_json, write_json
from erasediff.report.race import parse, standings

LOOKS = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 600, 800, 1000)
AGAIN = " (again)"
RELEASED = "released_code"
OVER = "its own steps were over"
PATIENCE = 3600.0  # seconds that the reference may take


def released(place: Path) -> Any:
    """The contestant of experiments/released_code, which is no method of the library."""
    sys.path.insert(0, str(place))
    return importlib.import_module("contestant").Released


class Runner:
    """One method in one seed's round."""

    def __init__(self, contestant: Any, line: Line, limit: float) -> None:
        self.contestant, self.line, self.limit = contestant, line, limit  # limit: in seconds of its own work
        self.points: list[dict[str, Any]] = []
        self.done, self.reached, self.why = False, False, ""
        self.prepared = False

    def turn(self) -> None:
        """Prepare, or go on to the next look and look."""
        contestant = self.contestant
        try:
            if not self.prepared:
                contestant.prepare(self.limit)
                self.prepared = True
                return
            ahead = [look for look in LOOKS if contestant.step < look <= contestant.last_step]
            if not ahead:
                self._end(OVER)
                return
            contestant.advance(ahead[0])
        except OutOfTime:
            self._end("a stage before its first step took longer than the limit")
            return
        with contestant.saved() as model:
            found = self.line.measure(model)
        self.reached = bool(found.pop("reached"))
        self.points.append({"seconds": contestant.seconds, "step": contestant.step, **found})
        if self.reached:
            self._end("reached")
        elif contestant.seconds > self.limit:
            self._end("limit")

    def _end(self, why: str) -> None:
        self.done, self.why = True, why
        self.contestant.close()

    def record(self, seed: int) -> dict[str, Any]:
        c = self.contestant
        return {
            "label": c.label,
            "seed": seed,
            "reached": self.reached,
            "why": self.why,
            "ended": self.why == OVER,
            "seconds": c.seconds if self.reached else None,
            "steps": c.step if self.reached else None,
            "limit_seconds": self.limit if self.reached else c.seconds,
            "points": self.points,
        }


def run_round(methods: dict[str, Any], reference: str, seed: int, make: Any, line: Line, ratio: float) -> Any:
    """All methods of one seed; yields their records."""
    first = Runner(make(reference, methods[reference], seed), line, PATIENCE)
    while not first.done:
        first.turn()
    yield first.record(seed)
    limit = ratio * first.contestant.seconds
    rivals = [Runner(make(n, s, seed), line, s.get("limit_ratio", ratio) / ratio * limit) for n, s in methods.items()]
    rivals = [r for r in rivals if r.contestant.label != reference]
    while waiting := [r for r in rivals if not r.done]:
        min(waiting, key=lambda r: r.contestant.seconds).turn()
        for runner in waiting:
            if runner.done:
                yield runner.record(seed)
    last = Runner(make(reference + AGAIN, {"method": reference, **methods[reference]}, seed), line, 3 * limit)
    while not last.done:
        last.turn()
    yield last.record(seed)


def table(record: dict[str, Any]) -> str:
    """Time over the reference's of the same seed: median, least and most."""
    lines = ["| method | reached | time / reference, median | least | most |", "|---|---:|---:|---:|---:|"]
    for row in standings(parse(record, "race.json"), record["reference"]):
        times = [b.text(f"{b.value:.2f}") if b is not None else "-" for b in (row.middle, row.least, row.most)]
        lines.append(f"| {row.label} | {row.reached}/{row.runs} | {' | '.join(times)} |")
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="run directory; {seed} in it stands for the seed")
    parser.add_argument("--data", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--methods", type=Path, required=True, help="YAML: label -> settings, reference first")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit_ratio", type=float, default=5.0, help="give up at so many times the reference")
    parser.add_argument("--only", nargs="*", default=[], help="labels to run beside the reference")
    parser.add_argument("--mixed_precision", default=FULL, choices=list(AUTOCAST), help="of what is drawn to be judged")
    parser.add_argument("--output_dir", type=Path, required=True)
    return parser.parse_args()


def read_methods(path: Path, only: list[str]) -> tuple[dict[str, Any], str]:
    """Label -> settings, and the reference: the first. The key ``training`` is for all but the reference."""
    filed: dict[str, Any] = yaml.safe_load(path.read_text())
    common = filed.pop("training", {})
    reference = next(iter(filed))
    methods = {n: dict(s or {}) for n, s in filed.items() if n == reference or not only or n in only}
    for name, settings in methods.items():
        if name != reference and settings.get("method") != RELEASED:
            settings["training"] = {**common, **settings.get("training", {})}
    return methods, reference


def earlier(place: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The record of a race that goes on. Exits with 2 where it was another one: rounds must have the same methods."""
    before = read_json(place)
    other = [k for k in record if k not in ("runs", "bases") and before.get(k, record[k]) != record[k]]
    bases = before.get("bases", {})
    if any(bases.get(seed, found) != found for seed, found in record["bases"].items()):
        other.append("bases")
    if other:
        print(f"{place} is a race with other {' and '.join(other)}; give another --output_dir", file=sys.stderr)
        raise SystemExit(2)
    return record | {"runs": before["runs"], "bases": bases | record["bases"]}


def main() -> None:
    given = arguments()
    methods, reference = read_methods(given.methods, given.only)
    data = sources.load(given.data)
    split = targets.split([targets.parse(given.target)], data)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    place = given.output_dir / "race.json"
    record: dict[str, Any] = {"schema": 1, "target_line": {"forget_rate": 0.02, "frechet_ratio": 1.10}, "runs": []}
    record |= {"reference": reference, "target": given.target, "methods": methods, "limit_ratio": given.limit_ratio}
    record["mixed_precision"] = given.mixed_precision
    bases = {seed: Path(given.base.format(seed=seed)) for seed in given.seeds}
    record["bases"] = {str(seed): weights_of(base, None) for seed, base in bases.items()}
    judge = Judge.load(given.classifier)
    record["classifier"] = judge.fingerprint
    if place.exists():
        record = earlier(place, record)
    for seed in given.seeds:
        # A round is one comparison: one that was cut short is run again as a whole.
        if any(r["label"] == reference + AGAIN and r["seed"] == seed for r in record["runs"]):
            continue
        record["runs"] = [r for r in record["runs"] if r["seed"] != seed]
        base = bases[seed]
        line = Line(judge, data, split, mixed_precision=given.mixed_precision).of(load_model(base)[0])

        def make(label: str, settings: dict[str, Any], seed: int, base: Path = base) -> Any:
            settings = {k: v for k, v in settings.items() if k != "limit_ratio"}
            if settings.get("method") == RELEASED:
                home = Path(__file__).resolve().parents[1] / "experiments" / "released_code"
                return released(home)(label, base, data, split, settings, seed)
            return Contestant(label, base, data, split, settings, seed)

        for found in run_round(methods, reference, seed, make, line, given.limit_ratio):
            record["runs"].append(found)
            write_json(place, record)
            shown = {k: found[k] for k in ("label", "seed", "reached", "why", "steps")}
            print(shown, flush=True)
    print(table(record))


if __name__ == "__main__":
    main()
