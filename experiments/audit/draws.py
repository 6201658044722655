"""Do the intervals of retention hold what other draws from the same model give?

    python experiments/audit/draws.py digits --output_dir runs/planted --seeds 3 --draws 30

Draws the base model of planted.py anew under other seeds and prints, for each measure, in what share of draws its 95 %
interval holds the mean over draws, and how many pairs of draws have intervals that do not meet. Writes draws.json.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from planted import SIZES, Bench, arguments

from erasediff.api.judges import judge_for
from erasediff.auditing.classifier import Judge
from erasediff.auditing.generate import images
from erasediff.auditing.metrics.distribution import distribution_measurements
from erasediff.auditing.metrics.diversity import diversity_measurements
from erasediff.data import sources
from erasediff.families import load
from erasediff.files import write_json


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--draws", type=int, default=30)
    given = parser.parse_args()
    data = sources.load(given.data)
    judge = judge_for(None, data, 0, quiet=True, kept=given.output_dir / "judge")
    if not isinstance(judge, Judge) or data.labels is None:
        parser.error("the data has no labels")
    rows = []
    for seed in given.seeds:
        bench = Bench(given.output_dir / str(seed), data, given.target, seed, given)
        model, found = load(bench.base()), {}
        kept = [k for k in range(len(data.class_names)) if k != bench.c]
        labels = torch.tensor(kept).repeat(SIZES["per_class"])
        real = judge.features(data.floats((~data.held_out & (data.labels != bench.c)).nonzero()[:, 0]))
        for draw in range(given.draws):
            asked: dict[str, Any] = {"num_inference_steps": SIZES["num_inference_steps"], "guidance_scale": 1.5}
            asked |= {"seed": draw, "kind": "retain", "mixed_precision": given.mixed_precision}
            features = judge.features(images(model, labels, len(labels), **asked))
            measured = distribution_measurements(real, features, seed=draw, features="classifier", resamples=20)
            for m in [*measured, *diversity_measurements(features, labels, seed=draw)]:
                found.setdefault(m.name, []).append((m.value, m.low, m.high))
        rows += [{"seed": seed, "measure": name, **_agreement(of)} for name, of in found.items()]
    for row in rows:
        print(row)
    write_json(given.output_dir / "draws.json", rows)


def _agreement(of: list[tuple[float, float, float]]) -> dict[str, Any]:
    mean = sum(value for value, _, _ in of) / len(of)
    apart = sum(a[1] > b[2] or b[1] > a[2] for a, b in combinations(of, 2))
    holds = sum(low <= mean <= high for _, low, high in of) / len(of)
    return {
        "draws": len(of),
        "mean": mean,
        "holds_the_mean": holds,
        "pairs": len(of) * (len(of) - 1) // 2,
        "apart": apart,
    }


if __name__ == "__main__":
    main()
