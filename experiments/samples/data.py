"""Images of which some are in the training data many times over, so that a model trained on them memorises those.

    python experiments/samples/data.py small-mnist.npz memorised.npz memorised.txt

Writes ``images`` without labels (the model is to be unconditional) and the row numbers of the repeated samples, as
`--target samples:memorised.txt` takes them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help=".npz with images and labels")
    parser.add_argument("data", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--unique", type=int, default=4000, help="images that occur once")
    parser.add_argument("--repeated", type=int, default=50, help="images that are repeated: those to be forgotten")
    parser.add_argument("--copies", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with np.load(arguments.source, allow_pickle=False) as archive:
        images = archive["images"]
    generator = np.random.default_rng(arguments.seed)
    chosen = generator.permutation(len(images))[: arguments.unique + arguments.repeated]
    rows = np.concatenate([chosen[: arguments.unique], np.repeat(chosen[arguments.unique :], arguments.copies)])
    order = generator.permutation(len(rows))
    np.savez_compressed(arguments.data, images=images[rows[order]])
    named = np.flatnonzero(order >= arguments.unique)
    arguments.target.write_text("".join(f"{i}\n" for i in named))


if __name__ == "__main__":
    main()
