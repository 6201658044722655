"""Train a text-to-image model on captions, erase a concept from it by each method of a plan, and ask all of them.

    python experiments/words/captions.py path/to/fashion-mnist words-data
    python experiments/words/run.py words-data --output_dir runs/words

Whatever is there already is kept, so that an interrupted call goes on; `--only NAME ...` takes some of the methods.
Writes results.json and table.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from ask import answers, measured

import erasediff
from erasediff.api.erase import method_named
from erasediff.api.judges import judge_for
from erasediff.auditing.classifier import Judge
from erasediff.data import sources
from erasediff.files import read_json, write_atomic, write_json
from erasediff.methods import METHODS

PLAN = Path(__file__).with_name("plan.yaml")
ENTRY = "entry.json"  # in an erasure's directory: what the plan said when it was made


def judged(data: Path, place: Path) -> Judge:
    """The judge: a classifier of real images by class; no model that is measured had a part in it."""
    if not (place / "judge").exists():
        made = judge_for(None, sources.load(str(data / "base.npz")), 0, quiet=True)
        if made is None:
            raise SystemExit("no judge can be trained on data without labels")
        made.save(place / "judge")
    return Judge.load(place / "judge")


def trained(name: str, plan: dict[str, Any], data: Path, place: Path) -> Path:
    """The run directory of the base, or of the model that was retrained without the concept."""
    exclude = plan["exclude"] if name == "retrained" else []
    resume = "latest" if any((place / name / "checkpoints").glob("*")) else None
    if not (place / name / "model").exists():
        erasediff.train(
            str(data / "base.npz"),
            caption_column="captions",
            output_dir=place / name,
            exclude=exclude,
            seed=plan["seed"],
            overwrite=resume is None,
            resume_from_checkpoint=resume,
            **plan["train"],
        )
    return place / name


def erased(name: str, plan: dict[str, Any], data: Path, place: Path) -> Path:
    """The run directory of one method of the plan."""
    how, directory = dict(plan["methods"][name] or {}), place / name
    wanted = {"target": plan["target"], "seed": plan["seed"], "how": plan["methods"][name] or {}}
    method = method_named(how.pop("method", name), how.pop("fields", {}))
    training = {"seed": plan["seed"], **how.pop("training", {})}
    if not any((directory / kind).exists() for kind in ("model", "lora")):
        given = {"overwrite": True, **how, **training}
        erasediff.erase(place / "base", plan["target"], str(data / "erase.npz"), method, output_dir=directory, **given)
        write_json(directory / ENTRY, wanted)
    if read_json(directory / ENTRY) != wanted:
        raise SystemExit(
            f"{directory} was made by another entry of a plan, see {ENTRY} there; remove it, or rename {name}"
        )
    return directory


def asked(name: str, directory: Path, plan: dict[str, Any], judge: Judge, place: Path) -> dict[str, Any]:
    """What a model answered; asked once, and again where the plan asks otherwise."""
    kept, weights = place / "answers" / f"{name}.json", read_json(directory / "run.json").get("weights")
    if kept.exists() and [(before := read_json(kept))[key] for key in ("ask", "weights")] == [plan["ask"], weights]:
        return before["called"]
    called = answers(directory, judge, plan["ask"], plan["forgotten"], place / "pictures" / f"{name}.png")
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, {"ask": plan["ask"], "weights": weights, "called": called})
    return called


def result(directory: Path, called: dict[str, Any], base: dict[str, Any], forgotten: str) -> dict[str, Any]:
    record = read_json(directory / "run.json")
    made = {key: record.get(key) for key in ("kind", "method", "training", "steps", "seed")}
    return {**made, "seconds": record.get("cost", {}).get("seconds"), "asked": measured(called, base, forgotten)}


def table(results: dict[str, Any]) -> str:
    """Markdown: one row a model."""
    lines = [
        "| model | forget rate: wordings of the erasure | paraphrases | unseen | accuracy of the others | change |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, entry in results.items():
        groups = entry["asked"]
        rates = [_interval(groups[g]["forget_rate"]) for g in ("training", "paraphrases", "unseen")]
        kept = groups["paraphrases"]
        change = _interval(kept["retain_change"], "+.3f") if name != "base" else "-"
        lines.append(f"| {name} | {' | '.join(rates)} | {_interval(kept['retain_accuracy'])} | {change} |")
    return "\n".join(lines) + "\n"


def _interval(found: dict[str, float], form: str = ".3f") -> str:
    return f"{found['value']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that captions.py wrote")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--only", nargs="*", help="names of the plan's methods")
    parser.add_argument("--no_retrained", action="store_true", help="leave out the model that never saw the concept")
    given = parser.parse_args()
    plan, place = yaml.safe_load(given.plan.read_text()), given.output_dir
    place.mkdir(parents=True, exist_ok=True)
    judge = judged(given.data, place)
    made = {name: trained(name, plan, given.data, place) for name in ("base", "retrained")[: 2 - given.no_retrained]}
    for name, how in plan["methods"].items():
        known = (how or {}).get("method", name) in METHODS
        if not known:
            print(f"{name}: this version has no such method")
        elif given.only is None or name in given.only:
            made[name] = erased(name, plan, given.data, place)
    called = {name: asked(name, directory, plan, judge, place) for name, directory in made.items()}
    results = {n: result(d, called[n], called["base"], plan["forgotten"]) for n, d in made.items()}
    instrument = {"name": judge.name, "held_out_accuracy": judge.held_out_accuracy, "n": judge.held_out_n}
    write_json(place / "results.json", {"plan": plan, "judge": instrument, "models": results})
    write_atomic(place / "table.md", table(results))
    print(f"judge: {judge.held_out_accuracy:.3f} of {judge.held_out_n} held-out images\n\n{table(results)}")


if __name__ == "__main__":
    main()
