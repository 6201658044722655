"""CIFAR-10 from zips of image tiles to one .npz, as `--data` takes it; the test images are held out.

    python experiments/cifar10/pack.py path/to/cifar10 cifar10.npz --parts train20k test --flips
    python experiments/cifar10/pack.py path/to/cifar10 cifar10.npz --parts train20k train-rest30k test

The folder holds ``cifar10-PART.zip``: lossless tiles ``*.webp`` of 10 x 10 images of 32 x 32 pixels each, in the order
of their names, and ``labels.npy``. Test images are never mirrored.
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from erasediff.errors import BadInput, EraseDiffError, check_one_of, listing
from erasediff.files import write_atomic

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PARTS = ("train20k", "train-rest30k", "test")
SIDE, GRID = 32, 10
TILE = (SIDE * GRID, SIDE * GRID, 3)


def read_part(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels [N] of one zip. Raises BadInput, naming the file, for anything else."""
    if not path.is_file():
        raise BadInput(f"{path} does not exist; needed is one cifar10-PART.zip a part, PART one of {listing(PARTS)}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.endswith(".webp"))
            tiles = [np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names]
            labels = np.load(io.BytesIO(archive.read("labels.npy")), allow_pickle=False)
    except (zipfile.BadZipFile, KeyError, UnidentifiedImageError, OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as a zip of .webp tiles and labels.npy: {error}") from None
    odd = next((f"{n} is {t.shape}" for n, t in zip(names, tiles, strict=True) if t.shape != TILE), None)
    if odd or not tiles:
        raise BadInput(f"{path}: every tile must be {TILE}, and there must be one; got {odd or 'no tile'}")
    images = cut(np.stack(tiles))
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise BadInput(f"{path}: labels.npy must be integers [{len(images)}], got {labels.dtype} {list(labels.shape)}")
    return images, labels.astype(np.int64)


def cut(tiles: np.ndarray) -> np.ndarray:
    """Tiles [T, 320, 320, 3] -> images [100 T, 32, 32, 3], row by row."""
    cells = tiles.reshape(len(tiles), GRID, SIDE, GRID, SIDE, 3).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(-1, SIDE, SIDE, 3)


def packed(folder: Path, parts: Sequence[str], *, flips: bool = False) -> dict[str, np.ndarray]:
    """The arrays of the .npz. ``flips`` adds the mirror image of every training image, as DDPM trained on."""
    for part in parts:
        check_one_of("part", part, PARTS)
    if "test" not in parts or len(set(parts)) < max(2, len(parts)):
        raise BadInput(f"parts must be different ones, test and at least one of training; got {listing(parts)}")
    images, labels, held = [], [], []
    for part in parts:
        pixels, classes = read_part(folder / f"cifar10-{part}.zip")
        copies = [pixels, pixels[:, :, ::-1]] if flips and part != "test" else [pixels]
        images += copies
        labels += [classes] * len(copies)
        held += [np.full(len(pixels), part == "test")] * len(copies)
    return {
        "images": np.concatenate(images),
        "labels": np.concatenate(labels),
        "held_out": np.concatenate(held),
        "class_names": np.array(CLASSES),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with cifar10-PART.zip")
    parser.add_argument("output", type=Path, help="the .npz to write")
    parser.add_argument("--parts", nargs="+", default=["train20k", "test"], metavar="PART", help=listing(PARTS))
    parser.add_argument("--flips", action="store_true", help="add the mirror image of every training image")
    arguments = parser.parse_args(argv)
    try:
        if arguments.output.suffix != ".npz":
            raise BadInput(f"output {arguments.output} must end in .npz")
        arrays = packed(arguments.folder, arguments.parts, flips=arguments.flips)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_atomic(arguments.output, buffer.getvalue())
    except EraseDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    held = int(arrays["held_out"].sum())
    print(f"{arguments.output}: {len(arrays['images']) - held} images to train on, {held} held out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
