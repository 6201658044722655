"""Plans: what they may say, and that an interrupted comparison ends where an unbroken one does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from tests.conftest import make_squares
from tests.docs.markdown import ROOT, blocks

import erasediff
from erasediff.api import attempt, planned
from erasediff.api.plan import KEYS, is_plan, parse, read_plan
from erasediff.api.plan_jobs import METHOD_KEYS, safe_name
from erasediff.auditing.classifier import train_classifier
from erasediff.auditing.metrics import classification
from erasediff.cli.main import main
from erasediff.errors import BadInput, Interrupted
from erasediff.families import tiny
from erasediff.files import alone_in
from erasediff.methods.salun import SalUn

SMALL = {"model": "base", "targets": ["class:1"], "methods": {"erasediff": {}}}
FEW = {"forget": 8, "per_class": 4, "unconditional": 8, "num_inference_steps": 2, "resamples": 3, "attacks": []}


def test_a_plan_spreads_methods_over_seeds_and_targets():
    plan = parse(
        {
            "models": {"0": "base-0", 1: "base-1", 2: "unused"},
            "targets": ["class:1", ["class:0", "class:2"]],
            "seeds": [0, 1],
            "methods": {
                "fine_tune": None,
                "erasediff": {"eta": "0.5"},
                "salun (published)": {"method": "salun", "alpha": 1e-3, "training": {"learning_rate": "1e-4"}},
                "narrow": {"method": "neg_grad", "seeds": [1], "targets": ["class:1"]},
            },
            "training": {"max_train_steps": 7, "learning_rate": 3e-4, "slack_tolerance": None},
            "audit": {"suite": "quick", "per_class": 5, "attacks": [], "seed": 3},
            "control": "fine_tune",
            "margins": {"retain_accuracy": 0.01},
        }
    )
    assert len(plan.jobs) == 3 * 2 * 2 + 1
    assert [j.label for j in plan.jobs[:3]] == ["fine_tune", "erasediff", "salun (published)"]
    assert {j.name for j in plan.jobs} == {"class:1", "class:0, class:2"}
    salun = next(j for j in plan.jobs if j.seed == 1 and j.label.startswith("salun"))
    assert salun.method == SalUn(alpha=1e-3)
    assert salun.training == {"learning_rate": 1e-4, "max_train_steps": 7, "slack_tolerance": None, "seed": 1}
    assert salun.model == "base-1" and salun.place == Path("runs/class-1/salun-published/1")
    assert (plan.suite.per_class, plan.suite.attacks) == (5, ())
    assert plan.suite.name == "quick, per_class 5, attacks none"
    assert plan.reference == "erasediff" and plan.audit["seed"] == 3
    assert parse(SMALL).reference == "erasediff" and parse(SMALL).suite.name == "standard"


def test_audits_of_a_plan_may_draw_in_half_precision():
    assert parse({**SMALL, "audit": {"mixed_precision": "bf16"}}).audit["mixed_precision"] == "bf16"
    # As in plans from before there was a choice; YAML reads a bare no as false.
    assert parse({**SMALL, "audit": {"mixed_precision": False}}).audit == parse(SMALL).audit


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": {}}, "unknown key of the plan 'method' (did you mean methods?)"),
        ({"methods": {}}, "methods must name at least one method"),
        ({"methods": {"saloon": {}}}, "unknown method 'saloon' (did you mean salun?)"),
        ({"methods": {"erasediff": {"etta": 1}}}, "unknown key of method 'erasediff' 'etta' (did you mean eta?)"),
        ({"methods": {"erasediff": {"eta": "much"}}}, "method erasediff: eta must be a number, got 'much'"),
        ({"methods": {"salun": {"mask_share": 3}}}, "mask_share must lie in (0, 1], got 3"),
        ({"methods": {"base": {"method": "salun"}}}, "'base' cannot be a label"),
        ({"methods": {"a b": {"method": "salun"}, "a-B": {"method": "salun"}}}, "would share the directory"),
        ({"methods": {"salun": {"seeds": [7]}}}, "seeds of salun: 7 is not among the plan's: 0"),
        ({"methods": {"salun": {"targets": ["class:2"]}}}, "targets of salun: class:2 is not among"),
        ({"methods": ["salun"]}, "methods must be a mapping"),
        ({"training": {"max_train_step": 1}}, "did you mean max_train_steps"),
        ({"training": {"max_train_steps": 1.5}}, "training: max_train_steps must be a whole number, got 1.5"),
        ({"training": {"seed": 1}}, "training cannot set seed: list seeds under `seeds`"),
        ({"training": {"learning_rate": -1}}, "learning_rate must be above 0"),
        ({"audit": {"suite": "quik"}}, "suite 'quik' is unknown (did you mean quick?)"),
        ({"audit": {"per_clas": 3}}, "did you mean per_class"),
        ({"audit": {"forget": 0}}, "forget must be at least 1"),
        ({"audit": {"per_class": 1}}, "per_class must be at least 2, got 1"),
        ({"audit": {"unconditional": 5}}, "unconditional must be at least 6, got 5"),
        ({"audit": {"attacks": 3}}, "attacks must be a list"),
        ({"audit": {"mixed_precision": "fp8"}}, "mixed_precision 'fp8' is unknown"),
        ({"targets": "class:1"}, "targets must be a list of targets"),
        ({"targets": ["clas:1"]}, "did you mean class"),
        ({"targets": ["class:1", "class:1"]}, "the same target twice"),
        ({"targets": []}, "targets must be a list"),
        ({"seeds": [0, 0]}, "seeds holds an entry twice"),
        ({"seeds": [-1]}, "must not be negative"),
        ({"seeds": 3}, "seeds must be a list"),
        ({"models": {0: "x"}}, "either model (one for all seeds) or models"),
        ({"model": None, "models": {1: "x"}}, "either model"),
        ({"retrained": {"class:2": "x"}}, "unknown target of retrained 'class:2' (did you mean class:1?)"),
        ({"runs": {"erasediff": {}}}, "'erasediff' and 'erasediff' would share the directory"),
        ({"runs": {"base": {}}}, "'base' cannot be a label"),
        ({"runs": {"theirs": {"class:2": {0: "x"}}}}, "unknown target of runs of theirs 'class:2'"),
        ({"runs": {"theirs": {"class:1": "x"}}}, "runs of theirs must be a mapping"),
        ({"runs": {"theirs": {"class:1": {"one": "x"}}}}, "a seed of runs of theirs"),
        ({"control": "fine_tune"}, "unknown control (a label of methods) 'fine_tune'"),
        ({"control": "erasediff", "reference": "erasediff"}, "control and reference are both 'erasediff'"),
        ({"margins": {"recal": 0.1}}, "unknown measure of margins 'recal' (did you mean recall?)"),
        ({"margins": {"recall": 0}}, "margins: recall must be above 0"),
    ],
)
def test_what_a_plan_cannot_mean_is_said(change, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        parse({**SMALL, **change})


def test_models_of_seeds_that_are_missing():
    with pytest.raises(BadInput, match=r"no base model for seed 1, 2; it has them for 0"):
        parse({**{k: v for k, v in SMALL.items() if k != "model"}, "models": {0: "x"}, "seeds": [0, 1, 2]})


def test_files_that_are_no_plan(tmp_path):
    assert is_plan("a.yaml") and is_plan(["a.yml"]) and is_plan({}) and not is_plan(["a.yaml", "b.yaml"])
    assert not is_plan(["run"]) and not is_plan([])
    path = tmp_path / "plan.yaml"
    for text, said in (("a: [", "is not YAML"), ("- 1", "must be a mapping"), ("", "targets must be a list")):
        path.write_text(text)
        with pytest.raises(BadInput, match=said):
            read_plan(path)


def test_names_of_directories_hold_nothing_strange():
    assert safe_name("salun (published)") == "salun-published" and safe_name("class:7") == "class-7"
    for odd in ("../../x", "a/b", "..", "\0", "ü" * 300, "<script>"):
        assert re.fullmatch(r"[A-Za-z0-9_.-]{0,80}", safe_name(odd)) and not safe_name(odd).startswith(".")


def test_the_documentation_shows_a_plan_that_is_read_and_names_every_key():
    page = ROOT / "docs" / "comparing.md"
    (block,) = [b for b in blocks(page) if b.language == "yml"]
    plan = parse(yaml.safe_load(block.text))
    assert len(plan.jobs) > 4 and plan.control and plan.reference
    table = page.read_text().split("## Keys of a plan")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(KEYS)
    assert all(f"`{key}`" in table for key in METHOD_KEYS)


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """The interval of the entropy takes 1,000 resamples in every suite: most of the time of a small audit."""
    with pytest.MonkeyPatch.context() as patch:
        genuine = classification.resample_interval
        patch.setattr(classification, "resample_interval", lambda *a, **given: genuine(*a, **{**given, "resamples": 5}))
        yield


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Data, two base models, a judge, and a plan over them."""
    place = tmp_path_factory.mktemp("house")
    data = make_squares()
    np.savez(place / "data.npz", images=data.images[:, 0].numpy(), labels=data.labels.numpy())
    for seed in (0, 1):
        tiny.unet2d(seed=seed).save(place / f"base-{seed}")
    kept, held = ~data.held_out, data.held_out
    judge = train_classifier(
        data.floats(kept),
        data.labels[kept],
        num_classes=4,
        held_out=(data.floats(held), data.labels[held]),
        seed=0,
        steps=20,
    )
    judge.save(place / "judge")
    plan = {
        "models": {s: str(place / f"base-{s}") for s in (0, 1)},
        "retrained": {"class:1": {0: str(place / "base-1")}},
        "data": str(place / "data.npz"),
        "targets": ["class:1"],
        "seeds": [0, 1],
        "methods": {
            "fine_tune": {},
            "erasediff": {},
            "gone": {"method": "neg_grad", "training": {"learning_rate": 1e30}},
        },
        "training": {"max_train_steps": 8, "train_batch_size": 4, "checkpointing_steps": 3},
        "audit": {"suite": "quick", "classifier": str(place / "judge"), "seed": 5, **FEW},
        "control": "fine_tune",
    }
    return SimpleNamespace(place=place, plan=plan)


@pytest.fixture(scope="module")
def unbroken(house):
    found = erasediff.compare(house.plan, output_dir=house.place / "unbroken", quiet=True)
    return SimpleNamespace(found=found, place=house.place / "unbroken")


def numbers(place: Path) -> dict:
    """What must not depend on how often a comparison was interrupted."""
    record = json.loads((place / "compare.json").read_text())
    runs = [(r["label"], r["target"], r["seed"], r["status"], r["measures"]) for r in record["models"] + record["runs"]]
    counted = [{k: v for k, v in r["cost"].items() if k in ("steps", "forward_equivalents")} for r in record["runs"]]
    return {"runs": runs, "counted": counted, "tests": record["tests"], "pareto": record["pareto"]}


def test_a_plan_is_carried_out_and_a_method_that_diverges_is_reported(unbroken):
    rows = unbroken.found.rows
    assert [(r.label, r.seed) for r in rows[:3]] == [("base", 0), ("base", 1), ("retrained", 0)]
    gone = [r for r in rows if r.label == "gone"]
    assert len(gone) == 2 and {r.status for r in gone} == {"diverged"} and all(r.detail for r in gone)
    assert unbroken.found.find("erasediff").measured == 2 and unbroken.found.missing == []
    text = (unbroken.place / "report.html").read_text()
    assert "diverged" in text and "gone" in (unbroken.place / "table.md").read_text()
    for label in ("fine_tune", "erasediff"):
        audit = unbroken.place / "runs" / "class-1" / label / "1" / "audit"
        assert (audit / "report.html").exists() and not (audit / "classifier").exists()
    assert not (unbroken.place / "classifier").exists()  # the plan's judge was used


def test_base_models_are_audited_once_and_keep_their_own_files(house, unbroken):
    audits = sorted(str(p.relative_to(unbroken.place)) for p in unbroken.place.rglob("audit.json"))
    assert [a for a in audits if a.startswith("models")] == [
        "models/class-1/base/0/audit.json",
        "models/class-1/base/1/audit.json",
        "models/class-1/retrained/0/audit.json",
    ]
    assert sorted(p.name for p in (house.place / "base-0").iterdir()) == sorted(
        p.name for p in (house.place / "base-1").iterdir()
    )
    one = dict(house.plan, models=None, model=house.plan["models"][0])
    del one["models"]
    assert [j.model for j in parse(one).jobs] == [house.plan["models"][0]] * 6


def test_the_same_call_again_runs_nothing(house, unbroken, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in unbroken.place.rglob("*.json") if p.name in ("run.json", "audit.json")}
    assert len(before) == 6 + 4 + 3
    erasediff.compare(house.plan, output_dir=unbroken.place, quiet=True)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_pieces_and_interrupts_end_where_an_unbroken_comparison_does(house, unbroken, tmp_path, monkeypatch):
    place, said = tmp_path / "pieces", []
    first = erasediff.compare(house.plan, output_dir=place, quiet=True, max_runs=1, say=said.append)
    assert len(first.missing) == 5 and said[-1] == "[1/1] fine_tune, class:1, seed 0"
    assert "1 of 2" in (place / "report.html").read_text()

    real, calls = attempt.erase, []

    def interrupted(*args, **given):
        """Like SIGINT after five steps: the run ends there, with a checkpoint, and says what it had cost."""
        calls.append(given)
        if len(calls) > 1:
            return real(*args, **given)
        from erasediff.training import loop

        genuine = loop.train

        def cut(session):
            for step in genuine(session):
                if step.number == 5:
                    import os
                    import signal

                    os.kill(os.getpid(), signal.SIGINT)
                yield step

        monkeypatch.setattr("erasediff.training.fit.train", cut)
        try:
            return real(*args, **given)
        finally:
            monkeypatch.setattr("erasediff.training.fit.train", genuine)

    monkeypatch.setattr(attempt, "erase", interrupted)
    with pytest.raises(Interrupted, match="interrupted at step"):
        erasediff.compare(house.plan, output_dir=place, quiet=True)
    cut_short = json.loads((place / "runs/class-1/erasediff/0/run.json").read_text())
    assert cut_short["status"] == "interrupted" and 5 <= cut_short["steps"] < 8

    # The next one is killed outright: run.json says that it is running, and there is a checkpoint.
    killed = place / "runs/class-1/fine_tune/1"
    shutil.copytree(unbroken.place / "runs/class-1/fine_tune/1", killed)
    shutil.rmtree(killed / "audit")
    shutil.rmtree(killed / "model")
    record = json.loads((killed / "run.json").read_text())
    for key in ("steps", "stopped", "cost", "weights"):
        record.pop(key)
    (killed / "run.json").write_text(json.dumps({**record, "status": "running"}))

    erasediff.compare(house.plan, output_dir=place, quiet=True)
    assert [c["resume_from_checkpoint"] for c in calls].count("latest") == 2
    assert numbers(place) == numbers(unbroken.place)


def test_finished_runs_that_the_plan_no_longer_describes_are_refused(house, unbroken, tmp_path):
    place = tmp_path / "c"
    shutil.copytree(unbroken.place, place)
    changes = [
        (
            {"training": {**house.plan["training"], "learning_rate": 1e-5}},
            r"its learning_rate was .*, the plan says 1e-05",
        ),
        ({"data": None}, "no data given|no run"),
        ({"methods": {**house.plan["methods"], "erasediff": {"eta": 0.77}}}, "its method was"),
        (
            {"models": {0: str(house.place / "base-0"), 1: str(house.place / "base-0")}},
            "its base model had other weights",
        ),
    ]
    for change, said in changes:
        with pytest.raises(BadInput, match=said):
            erasediff.compare({**house.plan, **change}, output_dir=place, quiet=True)
    plan = {**house.plan, "methods": {"fine_tune": {}, "erasediff": {"eta": 0.77}}, "seeds": [0]}
    before = (place / "runs/class-1/fine_tune/0/run.json").stat().st_mtime_ns
    erasediff.compare(plan, output_dir=place, quiet=True, overwrite=True)
    record = json.loads((place / "runs/class-1/erasediff/0/run.json").read_text())
    assert record["method"]["fields"]["eta"] == 0.77
    assert (place / "runs/class-1/fine_tune/0/run.json").stat().st_mtime_ns == before


def test_other_audits_are_made_anew_and_never_mixed_with_old_ones(house, unbroken, tmp_path):
    place = tmp_path / "c"
    shutil.copytree(unbroken.place, place)
    plan = {**house.plan, "audit": {**house.plan["audit"], "forget": 6}}
    part = erasediff.compare(plan, output_dir=place, quiet=True, max_runs=1)
    assert part.find("fine_tune").measured == 1 and part.find("erasediff").measured == 0
    assert part.find("base").measures["forget_rate"].samples == 12
    assert {r.detail for r in part.missing} == {"not audited yet"}


def test_weights_that_are_not_finite_count_as_diverged(house, unbroken, tmp_path):
    from safetensors.torch import load_file, save_file

    place = tmp_path / "c"
    shutil.copytree(unbroken.place, place)
    run = place / "runs/class-1/erasediff/0"
    (file,) = run.rglob("model/unet/*.safetensors")
    save_file({k: v * float("nan") for k, v in load_file(file).items()}, file)
    shutil.rmtree(run / "audit")
    found = erasediff.compare(house.plan, output_dir=place, quiet=True)
    (row,) = [r for r in found.rows if (r.label, r.seed) == ("erasediff", 0)]
    assert row.status == "diverged" and "not finite" in row.detail


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": ["class:9"], "retrained": None}, "there is no class '9'"),
        ({"model": "nowhere", "models": None}, "model 'nowhere' does not exist"),
        ({"retrained": {"class:1": "nowhere"}}, "model 'nowhere' does not exist"),
        ({"data": "nowhere.npz"}, "nowhere.npz does not exist"),
        ({"audit": {"classifier": "nowhere"}}, "no classifier in nowhere"),
        ({"audit": {"features": "pixel"}}, "did you mean pixels"),
        ({"race": "nowhere.json"}, "nowhere.json does not exist"),
        ({"training": {"slack_tolerance": 0.1}}, "slack_tolerance cannot be checked: method fine_tune"),
    ],
)
def test_bad_plans_are_exit_2_before_anything_runs(house, tmp_path, capsys, change, said):
    plan = {k: v for k, v in {**house.plan, **change}.items() if v is not None}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    argv = ["compare", str(tmp_path / "plan.yaml"), "--output_dir", str(tmp_path / "c"), "--quiet"]
    assert main(argv) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_the_command_line_says_how_to_go_on_after_an_interrupt(house, tmp_path, capsys, monkeypatch):
    def stopped(*args, **given):
        raise Interrupted("interrupted at step 3; state saved in x")

    monkeypatch.setattr("erasediff.api.compare.carry_out", stopped)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(house.plan))
    argv = ["compare", str(tmp_path / "plan.yaml"), "--output_dir", str(tmp_path / "c")]
    assert main(argv) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "go on: erasediff " + " ".join(argv)


def test_a_directory_of_another_comparison_is_not_taken_over(house, tmp_path):
    (tmp_path / "compare.json").write_text("{}")
    with pytest.raises(BadInput, match="not this plan's"):
        erasediff.compare(house.plan, output_dir=tmp_path, quiet=True)
    with pytest.raises(BadInput, match="needs an output_dir"):
        erasediff.compare(house.plan)


def test_two_processes_do_not_carry_out_a_plan_in_one_place(house, unbroken, tmp_path):
    place = tmp_path / "held"
    wait = "import sys; from pathlib import Path; from erasediff.files import alone_in\n"
    wait += "with alone_in(Path(sys.argv[1]), 'carrying out a plan'): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", wait, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match=r"another process is carrying out a plan in .*; wait until it has ended"):
            erasediff.compare(house.plan, output_dir=place, quiet=True)
        other.kill()  # however it ends, its lock goes with it
    assert not (place / "runs").exists()
    with alone_in(place, "looking"):
        pass


def test_a_judge_is_trained_once_where_none_is_given(house, tmp_path, monkeypatch):
    trained = []

    def judge_for(given, data, seed, *, quiet):
        trained.append(seed)
        return planned.Judge.load(house.place / "judge")

    monkeypatch.setattr(planned, "judge_for", judge_for)
    plan = {**house.plan, "audit": {**FEW, "suite": "quick", "seed": 5}, "seeds": [0], "methods": {"fine_tune": {}}}
    plan = {k: v for k, v in plan.items() if k != "retrained" and k != "control"}
    for _ in range(2):
        erasediff.compare(plan, output_dir=tmp_path, quiet=True)
    record = tmp_path / "classifier" / "classifier.json"
    assert trained == [5] and record.exists()
    record.unlink()  # as a call leaves it that is killed between the two files
    erasediff.compare(plan, output_dir=tmp_path, quiet=True)
    assert trained == [5, 5] and record.exists()


def test_the_suite_of_a_plan_is_what_the_audit_uses(house, unbroken):
    audit = json.loads((unbroken.place / "runs/class-1/erasediff/0/audit/audit.json").read_text())
    wanted = parse(house.plan).suite
    assert audit["setting"]["suite"]["forget"] == wanted.forget == 8
    assert audit["setting"]["suite"]["name"].startswith("quick, forget 8, per_class 4")
    assert "erasediff.compare" in audit["setting"]["command"]
    card = (unbroken.place / "runs/class-1/erasediff/0/README.md").read_text()
    assert "What was measured" in card
