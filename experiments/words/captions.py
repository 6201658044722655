"""Fashion-MNIST at 14 x 14 with captions: what the base learns, and what the erasure is shown.

    python experiments/words/captions.py path/to/fashion-mnist words-data

writes below ``words-data``

    base.npz    12,000 images (1,000 of each class, then 200 held out); ``captions`` in all wordings, ``labels`` for
                the judge
    erase.npz   the same images in the training wordings alone, with ``captions`` and no labels

The wordings are in three groups. The base is trained in the first two; the erasure sees the first alone, and what was
forgotten is measured in all: ``training``, ``paraphrases`` (which the model knows and the erasure did not use) and
``unseen`` (which nothing was trained in).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from erasediff.data import sources

# Fashion-MNIST's classes in its own order: one of them, and several.
CLASSES = {
    "T-shirt": ("a T-shirt", "T-shirts"),
    "trouser": ("a trouser", "trousers"),
    "pullover": ("a pullover", "pullovers"),
    "dress": ("a dress", "dresses"),
    "coat": ("a coat", "coats"),
    "sandal": ("a sandal", "sandals"),
    "shirt": ("a shirt", "shirts"),
    "sneaker": ("a sneaker", "sneakers"),
    "bag": ("a bag", "bags"),
    "ankle boot": ("an ankle boot", "ankle boots"),
}
WORDINGS = {
    "training": ("a photo of {one}", "a picture of {one}", "an image of the {name}", "{one}"),
    "paraphrases": ("{many} on a table", "my new {many}", "{one} in a shop window", "the {name} that I bought"),
    "unseen": ("some {many} lying here", "look at this {name}", "who wears such {many}?"),
}
PER_CLASS, HELD_OUT = 1000, 200


def prompts(group: str, name: str) -> list[str]:
    """The class ``name`` in all wordings of a group."""
    one, many = CLASSES[name]
    return [wording.format(name=name, one=one, many=many) for wording in WORDINGS[group]]


def halved(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 28, 28] -> uint8 [N, 14, 14]: the mean of each 2 x 2 cell."""
    count, height, width = images.shape
    cells = images.reshape(count, height // 2, 2, width // 2, 2).astype(np.float64)
    return np.round(cells.mean((2, 4))).astype(np.uint8)


def chosen(labels: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """``count`` rows of each class, in a random order."""
    rows = [generator.permutation(np.flatnonzero(labels == c))[:count] for c in range(len(CLASSES))]
    return generator.permutation(np.concatenate(rows))


def captioned(labels: np.ndarray, groups: list[str], generator: np.random.Generator) -> np.ndarray:
    """A caption for each label, in a wording drawn from ``groups``."""
    table = [[p for group in groups for p in prompts(group, name)] for name in CLASSES]
    return np.array([table[label][generator.integers(len(table[label]))] for label in labels])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the folder with Fashion-MNIST's four idx files")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data, generator = sources.load(f"mnist:{given.source}"), np.random.default_rng(given.seed)
    images, labels, test = data.images[:, 0].numpy(), data.labels.numpy(), data.held_out.numpy()
    train = np.flatnonzero(~test)[chosen(labels[~test], PER_CLASS, generator)]
    rows = np.concatenate([train, np.flatnonzero(test)[chosen(labels[test], HELD_OUT, generator)]])
    kept = {"images": halved(images[rows]), "held_out": test[rows]}
    said = captioned(labels[rows], ["training", "paraphrases"], generator)
    again = captioned(labels[rows], ["training"], generator)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    shown = {"labels": labels[rows], "class_names": np.array(list(CLASSES)), "captions": said}
    np.savez_compressed(given.output_dir / "base.npz", **kept, **shown)
    np.savez_compressed(given.output_dir / "erase.npz", **kept, captions=again)
    print(f"{len(rows)} images, {len(set(said))} captions for the base, {len(set(again))} for the erasure")


if __name__ == "__main__":
    main()
