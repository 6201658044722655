"""A small MNIST (or Fashion-MNIST) for CPUs: the first 12,000 training images, averaged over 2 x 2 pixels to 14 x 14.

python experiments/images/small.py path/to/mnist small-mnist.npz
"""

from __future__ import annotations

import sys

import numpy as np

from erasediff.data import sources

if __name__ == "__main__":
    source, target = sys.argv[1:]
    data = sources.load(f"mnist:{source}")
    images = data.images[:12000, 0].numpy().reshape(-1, 14, 2, 14, 2).mean((2, 4)).round().astype(np.uint8)
    np.savez_compressed(target, images=images, labels=data.labels[:12000].numpy())
