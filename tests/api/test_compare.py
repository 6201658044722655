"""Comparing runs that are there: what may stand side by side, under which label, and what it cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import erasediff
from erasediff.api.entries import read
from erasediff.auditing.result import AuditResult, Measurement, Verdict
from erasediff.cli.main import main
from erasediff.errors import BadInput

STEPS = 30


def made(
    place: Path,
    method: str = "erasediff",
    seed: int = 0,
    *,
    target: str = "class:7",
    base: str = "aa",
    status: str = "completed",
    audited: bool = True,
    forget: float = 0.01,
    suite: str = "quick",
    **record,
) -> Path:
    """A run directory with the two files that a comparison reads."""
    place.mkdir(parents=True)
    written = {
        "schema": 1,
        "kind": "erase",
        "status": status,
        "target": [target],
        "method": {"name": method, "fields": {"eta": 0.1}},
        "base_model": {"source": "base", "sha256": {"w": base}},
        "training": {"max_train_steps": STEPS, "seed": seed, "learning_rate": 1e-4},
        "seed": seed,
        "steps": STEPS,
        "stopped": {"reason": "max_train_steps", "detail": "all steps were taken"},
        "cost": {"seconds": 4.0 + seed, "steps": STEPS, "forward_equivalents": 90.0, "peak_memory_bytes": 2**30},
    }
    (place / "run.json").write_text(json.dumps({**written, **record}))
    if audited:
        found = [
            Measurement(
                name="forget_rate", group="forget", subject=s, value=v, low=0, high=1, n=9, higher_is_better=False
            )
            for s, v in (("erased", forget), ("base", 0.9), ("control", 0.8))
        ]
        verdict = Verdict(goal="data", level="no_verdict")
        setting = {"suite": {"name": suite}, "seed": 0, "models": {"erased": str(place)}}
        result = AuditResult(target=target, measurements=found, verdict=verdict, setting=setting)
        (place / "audit").mkdir()
        (place / "audit" / "audit.json").write_text(json.dumps(result.to_dict()))
    return place


def test_an_audit_of_the_weights_that_were_there_before_is_refused(tmp_path):
    run = made(tmp_path / "a", weights={"unet/w.safetensors": "new"})
    place = run / "audit" / "audit.json"
    audit = json.loads(place.read_text())
    for seen, refused in (({}, False), ({"unet/w.safetensors": "new"}, False), ({"unet/w.safetensors": "old"}, True)):
        audit["setting"]["model_weights"] = {"erased": seen}
        place.write_text(json.dumps(audit))
        if refused:
            with pytest.raises(BadInput, match=r"is an audit of other weights than those of .*a now; audit it anew"):
                read(run)
        else:
            assert read(run).audit is not None


def test_seeds_of_one_setting_share_a_row_and_other_settings_do_not(tmp_path):
    runs = [made(tmp_path / f"e{s}", seed=s, forget=0.1 * s) for s in range(3)]
    runs.append(made(tmp_path / "other", method="salun"))
    runs.append(made(tmp_path / "longer", method="salun", training={"max_train_steps": 99, "seed": 0}, steps=30))
    found = erasediff.compare(runs, output_dir=tmp_path / "c")
    assert [a.label for a in found.aggregates] == ["base", "control", "erasediff", "salun #1", "salun #2"]
    mean = found.find("erasediff").measures["forget_rate"]
    assert mean.runs == 3 and mean.value == pytest.approx(0.1)
    record = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert record["schema"] == 2 and record["reference"] == "erasediff" and record["control"] == "control"
    assert len(record["runs"]) == 5 and {r["kind"] for r in record["runs"]} == {"method"}
    assert [(r["label"], r["kind"]) for r in record["models"]] == [("base", "model"), ("control", "control")]
    assert "forget_rate" in record["measures"] and record["tests"]
    assert (tmp_path / "c" / "table.md").read_text().count("erasediff") >= 1


def test_one_run_named_twice_is_no_second_seed(tmp_path):
    run = made(tmp_path / "e")
    found = erasediff.compare([run, run / "audit"])
    assert [a.label for a in found.aggregates][-2:] == ["erasediff #1", "erasediff #2"]


def test_a_run_that_diverged_has_a_row_though_it_has_no_audit(tmp_path):
    stopped = {"reason": "diverged", "detail": "retain_loss is not finite at step 3"}
    gone = made(tmp_path / "g", "neg_grad", status="diverged", audited=False, stopped=stopped)
    short = made(tmp_path / "s", "salun", stopped={"reason": "retain_budget", "detail": "retain loss 2"})
    found = erasediff.compare([gone, made(tmp_path / "e"), short], output_dir=tmp_path / "c")
    record = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert [(r["label"], r["status"]) for r in record["runs"]] == [
        ("neg_grad", "diverged"), ("erasediff", "completed"), ("salun", "stopped: retain_budget"),
    ]  # fmt: skip
    assert record["runs"][0]["detail"] == "retain_loss is not finite at step 3"
    text = (tmp_path / "c" / "report.html").read_text()
    assert "retain_loss is not finite at step 3" in text and "stopped: retain_budget" in text
    assert found.find("neg_grad").diverged == 1


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"target": "class:1"}, "runs of different targets cannot be compared: "),
        ({"target": "class:1"}, "a/audit forgot class:7, "),
        ({"target": "class:1"}, "b/audit forgot class:1; a plan (erasediff compare FILE.yaml) takes several"),
        ({"base": "bb"}, "runs of different base models cannot be compared"),
        ({"audited": False}, "holds no audit"),
        ({"audited": False, "status": "interrupted"}, "holds no audit"),
        ({"audited": False, "status": "diverged", "target": "class:1"}, "different targets"),
    ],
)
def test_what_cannot_be_compared_is_exit_2_and_nothing_is_written(tmp_path, capsys, other, said):
    runs = [made(tmp_path / "a"), made(tmp_path / "b", **other)]
    assert main(["compare", *map(str, runs), "--output_dir", str(tmp_path / "c")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_flags_that_do_not_fit(tmp_path, capsys):
    run = str(made(tmp_path / "a"))
    out = ["--output_dir", str(tmp_path / "c")]
    assert main(["compare", run, *out, "--reference", "erasedif"]) == 2
    assert "did you mean erasediff" in capsys.readouterr().err
    assert main(["compare", run, *out, "--max_runs", "1"]) == 2
    assert "max_runs is for plans" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none.yaml"), *out]) == 2
    assert "cannot be read: no such file" in capsys.readouterr().err
    with pytest.raises(BadInput, match="no run given"):
        erasediff.compare([])


def test_a_comparison_is_not_overwritten_unasked(tmp_path, capsys):
    argv = ["compare", str(made(tmp_path / "a")), "--output_dir", str(tmp_path / "c")]
    assert main(argv) == 0
    assert "erasediff" in capsys.readouterr().out
    assert main(argv) == 2
    assert "already holds a comparison" in capsys.readouterr().err
    assert main([*argv, "--overwrite"]) == 0


def test_audits_by_other_instruments_are_pointed_out(tmp_path):
    found = erasediff.compare([made(tmp_path / "a"), made(tmp_path / "b", "salun", suite="full")])
    assert any("differ in their suite" in note for note in found.notes)
    assert erasediff.compare([made(tmp_path / "c"), made(tmp_path / "d", "salun")]).notes == []


def test_part_of_a_cost_is_no_cost_and_earlier_parts_are_added(tmp_path):
    resumed = made(
        tmp_path / "a", cost={"seconds": 1.0, "steps": 10, "forward_equivalents": 30.0, "peak_memory_bytes": 5}
    )
    assert erasediff.compare([resumed]).rows[-1].cost == {}
    before = {"seconds": 3.0, "steps": 20, "forward_equivalents": 60.0, "peak_memory_bytes": 7}
    (resumed / "earlier_cost.json").write_text(json.dumps(before))
    cost = erasediff.compare([resumed]).rows[-1].cost
    assert cost == {"seconds": 4.0, "steps": 30, "forward_equivalents": 90.0, "peak_memory_bytes": 7}


def test_a_race_beside_the_comparison_is_drawn_and_a_broken_one_refused(tmp_path):
    run, place = made(tmp_path / "a"), tmp_path / "c"
    place.mkdir()
    (place / "race.json").write_text("{}")
    with pytest.raises(BadInput, match=r"race\.json has schema None"):
        erasediff.compare([run], output_dir=place)
    points = [{"seconds": 0, "step": 0, "forget_rate": 1, "frechet_ratio": 1}]
    racer = {"label": "erasediff", "seed": 0, "reached": True, "seconds": 2, "steps": 3, "limit_seconds": 9}
    line = {"forget_rate": 0.02, "frechet_ratio": 1.1}
    race = {"schema": 1, "target_line": line, "runs": [{**racer, "points": points}]}
    (place / "race.json").write_text(json.dumps(race))
    found = erasediff.compare([run], output_dir=place)
    assert found.to_dict()["race"]["standings"][0]["middle"] == {"value": 1.0, "sign": ""}
    assert "Time to the target" in (place / "report.html").read_text()


def test_help_loads_no_torch():
    program = (
        "import sys; from erasediff.cli.main import main\ntry: main(['compare', '--help'])\nexcept SystemExit: pass\n"
    )
    program += "print(sorted({'torch', 'numpy', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "--max_runs" in done.stdout
