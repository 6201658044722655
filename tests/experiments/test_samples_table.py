"""The table of the samples experiment: means over seeds, with the least and the most."""


def run(table, label, seed, **values):
    measures = {name: {"value": values.get(name, 0.5), "low": 0.0, "high": 1.0, "n": 10} for name in table.MEASURES}
    return {"label": label, "seed": seed, "measures": measures}


def test_a_line_a_model_with_the_mean_the_least_and_the_most(script):
    made = script("experiments/samples", "table")
    runs = [run(made, "ours", 0, mia_auc_loss=0.4), run(made, "ours", 1, mia_auc_loss=0.6)]
    left_out = {"label": "lost", "seed": 0, "measures": {}}
    found = made.rows({"models": [run(made, "retrained", 0)], "runs": [*runs, left_out]})
    assert [(row["method"], row["seed"]) for row in found] == [("retrained", 0), ("ours", 0), ("ours", 1)]
    lines = made.table(found).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| retrained | 1 | 0.500 [0.500, 0.500] |")
    assert lines[3].startswith("| ours | 2 | 0.500 [0.500, 0.500] | 0.500 [0.400, 0.600] |")
