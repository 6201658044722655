"""The models that the comparisons of this folder start from: bases, models retrained without a class, the judge.

    python experiments/images/bases.py small-mnist.npz --output_dir runs/mnist --seeds 0 1 2 --classes 1 4 7

What is there already is kept, so an interrupted call goes on with the next model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from erasediff.api.judges import judge_for
from erasediff.api.train import train
from erasediff.data import sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--classes", nargs="*", default=["1", "4", "7"], help="classes to retrain without")
    parser.add_argument("--max_train_steps", type=int, default=3000)
    given = parser.parse_args()
    data, place = sources.load(given.data), given.output_dir
    if not (place / "judge").exists():
        judge = judge_for(None, data, 0, quiet=False)
        if judge is not None:
            judge.save(place / "judge")
    wanted = [(f"base-{seed}", seed, []) for seed in given.seeds]
    wanted += [(f"retrained-{name}-{seed}", seed, [f"class:{name}"]) for name in given.classes for seed in given.seeds]
    for name, seed, exclude in wanted:
        if not (place / name / "model").exists():
            train(
                data,
                output_dir=place / name,
                exclude=exclude,
                seed=seed,
                max_train_steps=given.max_train_steps,
                overwrite=True,
            )


if __name__ == "__main__":
    main()
