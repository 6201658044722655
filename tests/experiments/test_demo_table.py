"""The table of README.md from the demo's audits."""


def measured(name, subject, value, n=10):
    return {"name": name, "subject": subject, "value": value, "n": n}


def test_a_cell_holds_the_seeds_in_their_order_and_what_one_seed_lacks_is_left_out(script):
    made = script("experiments/demo", "table")
    audits = [
        {
            "measurements": [
                measured("forget_rate", "erased", 0.1 * seed),
                measured("forget_rate", "base", 1.0),
                measured("relearn_k10", "erased", 0.5, n=10 + seed),
                measured("frechet_distance", "erased", 2.0),
                *([measured("forget_rate", "control", 0.9)] if seed else []),
            ]
        }
        for seed in (0, 1)
    ]
    rows = made.table(audits).splitlines()
    assert "| samples asked for a 7 that are one (n = 10) | 1.000 / 1.000 | 0.000 / 0.100 | - | - |" in rows
    assert "| mean share of 7s while relearning from 10 images | - | 0.500 / 0.500 | - | - |" in rows, "two sizes: none"
    assert "| Frechet distance of the other digits | - | 2.000 / 2.000 | - | - |" in rows
