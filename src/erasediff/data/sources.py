"""Where images come from. A DATA argument names one of the sources below; each returns the same :class:`ImageData`.

A fixed part of every source is held out: nothing is trained on it, so that judges and attacks can be tested on it.
Sources that come with a test part, or say what is held out, hold that out; of the others every class gives up one
sample in five.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from erasediff.data.captions import metadata
from erasediff.data.metadata import METADATA
from erasediff.errors import BadInput, listing

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for a bad file
HELD_OUT_SHARE = 0.2
NPZ_ARRAYS = ("images", "labels", "class_names", "held_out", "captions")

Read = Callable[[Path], np.ndarray]
"""The file of an image -> uint8 [H, W] or [H, W, C]."""


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Labelled images in memory. ``images``: uint8 [N, C, H, W]; ``labels``: int64 [N] or None; ``held_out``: [N].

    ``meant``: targets whose classes are not to be read off the names, as text, with the numbers of their classes.
    """

    spec: str
    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    held_out: Tensor
    meant: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    def fingerprint(self) -> str:
        """SHA-256 over images and labels, in order."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def floats(self, indices: Tensor) -> Tensor:
        """Images [n, C, H, W] in [-1, 1]."""
        return as_floats(self.images[indices])


def as_floats(images: Tensor) -> Tensor:
    """uint8 images in 0..255 -> float32 in [-1, 1], on the device they are on."""
    return images.float() / 127.5 - 1


def as_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8 in 0..255, rounded; what is outside is clamped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def build(
    spec: str,
    images: np.ndarray,
    labels: np.ndarray | None,
    *,
    class_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    held_out: np.ndarray | None = None,
) -> ImageData:
    """Check arrays of images [N, H, W] or [N, H, W, C] uint8 and labels [N], and hold a part out. Raises BadInput."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise BadInput(
            f"{spec}: images must be uint8 [N, H, W] or [N, H, W, C] with N > 0, got {images.dtype} {images.shape}"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    classes: Tensor | None = None
    if labels is not None:
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise BadInput(f"{spec}: labels must be integers [{len(images)}], got {labels.dtype} {labels.shape}")
        if labels.min() < 0 or (class_names is not None and labels.max() >= len(class_names)):
            top = f" and {len(class_names) - 1}" if class_names is not None else ""
            raise BadInput(f"{spec}: labels must lie between 0{top}, got {labels.min()} to {labels.max()}")
        classes = torch.from_numpy(labels.astype(np.int64))
        class_names = class_names or [str(c) for c in range(int(labels.max()) + 1)]
    mask = torch.from_numpy(held_out) if held_out is not None else hold_out(len(images), classes)
    listed = tuple(names) if names is not None else tuple(str(i) for i in range(len(images)))
    return ImageData(
        spec=spec, images=tensor, labels=classes, class_names=tuple(class_names or ()), names=listed, held_out=mask
    )


def hold_out(count: int, labels: Tensor | None) -> Tensor:
    """Every fifth sample of each class, spread evenly over the order of the data; a function of the data alone."""
    mask = torch.zeros(count, dtype=torch.bool)
    every = round(1 / HELD_OUT_SHARE)
    groups = [torch.arange(count)] if labels is None else [(labels == c).nonzero()[:, 0] for c in labels.unique()]
    for group in groups:
        mask[group[every - 1 :: every]] = True
    return mask


def digits(spec: str) -> ImageData:
    """The 1,797 handwritten digits of 8 x 8 grey levels that ship with scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return build(spec, np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64))


def npz(spec: str) -> ImageData:
    """A ``.npz`` file with ``images`` and, unless the model is unconditional, ``labels``.

    Optional: ``class_names``, and ``held_out`` (bool [N]), the test part. Without ``labels``, ``captions`` (text [N])
    take their place: equal captions are one class.
    """
    try:
        # Opened here: np.load leaves a file open that turns out to be no archive.
        with Path(spec).open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in NPZ_ARRAYS if k in archive.files}
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise BadInput(f"{spec} cannot be read as .npz without pickles: {error}") from None
    except TypeError:  # np.load goes by the content, and an array alone is no archive
        raise BadInput(f"{spec} is a single array; needed is a .npz with the arrays images and labels") from None
    if "images" not in arrays:
        raise BadInput(f"{spec} has no array named images; needed are images and labels")
    names = [str(n) for n in arrays["class_names"]] if "class_names" in arrays else None
    held_out = arrays.get("held_out")
    if held_out is not None:
        _check_held_out(spec, held_out, arrays["images"].shape[:1])
    labels, captions = arrays.get("labels"), arrays.get("captions")
    if labels is None and captions is not None:
        names, labels = _numbered(spec, captions)
    return build(spec, arrays["images"], labels, class_names=names, held_out=held_out)


def _numbered(spec: str, captions: np.ndarray) -> tuple[list[str], np.ndarray]:
    if captions.dtype.kind != "U" or captions.ndim != 1:
        raise BadInput(f"{spec}: captions must be text [N], got {captions.dtype} {list(captions.shape)}")
    names, labels = np.unique(captions, return_inverse=True)
    return names.tolist(), labels


def _check_held_out(spec: str, held_out: np.ndarray, rows: tuple[int, ...]) -> None:
    if held_out.dtype != np.bool_ or held_out.ndim != 1 or held_out.shape != rows:
        raise BadInput(f"{spec}: held_out must be bool {list(rows)}, got {held_out.dtype} {list(held_out.shape)}")
    if held_out.all() or not held_out.any():
        share = "all" if held_out.all() else "none"
        raise BadInput(
            f"{spec}: held_out names {share} of {len(held_out)} images; some must be trained on and some held out. "
            "Leave the array out to hold out every fifth of each class"
        )


def _idx(path: Path) -> np.ndarray:
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise BadInput(f"{path} is not a whole gzip file: {error}") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != 8:
        raise BadInput(f"{path} is not an idx file of unsigned bytes")
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(content[3])]
    flat = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if flat.size != np.prod(shape):
        raise BadInput(f"{path} is cut short: {flat.size} bytes for an array of {shape}")
    return flat.reshape(shape)


def mnist(spec: str) -> ImageData:
    """``mnist:DIR``: the four idx files of MNIST or Fashion-MNIST, plain or ``.gz``; the test files are held out."""
    folder = Path(spec.partition(":")[2])
    parts = []
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        path = next((p for end in ("-ubyte.gz", "-ubyte") if (p := folder / f"{stem}{end}").exists()), None)
        if path is None:
            raise BadInput(f"{folder} lacks {stem}-ubyte(.gz); the four idx files of MNIST are needed")
        parts.append(_idx(path))
    images = np.concatenate([parts[0], parts[2]])
    labels = np.concatenate([parts[1], parts[3]]).astype(np.int64)
    return build(spec, images, labels, held_out=np.arange(len(images)) >= len(parts[0]))


def image_folder(spec: str, read: Read | None = None) -> ImageData:
    """A folder of images: one sub-folder a class, or ``metadata.jsonl``, or neither.

    ``metadata.jsonl`` has ``file_name`` and ``label``, or ``text``, a caption: equal captions are one class.
    """
    root = Path(spec)
    if (root / METADATA).is_file():
        rows = metadata(root)
        said = [r.get("label") if r.get("label") is not None else r.get("text") for r in rows]
        pairs = [
            (root / r["file_name"], None if label is None else str(label)) for r, label in zip(rows, said, strict=True)
        ]
    else:
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        pairs = [(p, p.relative_to(root).parts[0] if p.parent != root else None) for p in files]
    if not pairs:
        raise BadInput(f"{root} holds no image; readable are: {listing(sorted(IMAGE_SUFFIXES))}")
    arrays = [(read or _read)(path) for path, _ in pairs]
    odd = next((i for i, a in enumerate(arrays) if a.shape != arrays[0].shape), None)
    if odd is not None:
        raise BadInput(
            f"{pairs[odd][0]} is {arrays[odd].shape}, but {pairs[0][0]} is {arrays[0].shape}: sizes must agree"
        )
    found = {label for _, label in pairs if label is not None}
    if found and any(label is None for _, label in pairs):
        raise BadInput(f"{root}: some images have a class and some have none; put every image into a class folder")
    names = sorted(found, key=lambda n: (not n.isdigit(), int(n) if n.isdigit() else 0, n))
    labels = np.array([names.index(str(label)) for _, label in pairs]) if names else None
    relative = [str(p.relative_to(root)) for p, _ in pairs]
    return build(spec, np.stack(arrays), labels, class_names=names or None, names=relative)


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "I;16") else "RGB"))
    except FileNotFoundError:
        raise BadInput(f"image {path} does not exist") from None
    except UNREADABLE as error:
        raise BadInput(f"image {path} cannot be read: {' '.join(str(error).split())}") from None


def hub(spec: str) -> ImageData:
    """A ``datasets`` id: the first image column and the first class-label column of its train split."""
    try:
        import datasets
    except ImportError:
        known = listing(["digits", "FILE.npz", "mnist:DIR", "an image folder"])
        raise BadInput(
            f"data {spec!r} is no file, folder or built-in ({known}); "
            "for an id of the Hub install the extra: pip install 'erasediff[hub]'"
        ) from None
    try:
        table = datasets.load_dataset(spec, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        said = " ".join(str(error).split())
        raise BadInput(f"data {spec!r} is no file or folder, nor a data set of the Hub: {said}") from None
    images = next((n for n, f in table.features.items() if isinstance(f, datasets.Image)), None)
    labels = next((n for n, f in table.features.items() if isinstance(f, datasets.ClassLabel)), None)
    if images is None:
        raise BadInput(f"data {spec!r} has no image column; its columns: {listing(table.features)}")
    arrays = [np.asarray(image) for image in table[images]]
    if len(shapes := {a.shape for a in arrays}) > 1:
        raise BadInput(f"images of {spec!r} differ in shape: {listing(sorted(shapes)[:4])}; bring them to one")
    if labels is None:
        return build(spec, np.stack(arrays), None)
    return build(spec, np.stack(arrays), np.array(table[labels]), class_names=table.features[labels].names)


def drawn(spec: str) -> ImageData:
    """``generated:DIR``: what an erase was shown, put together again from DIR, the ``generated/`` of its run."""
    from erasediff.data.assembled import load as assembled

    return assembled(spec)


SCHEMES: dict[str, Callable[[str], ImageData]] = {"mnist": mnist, "generated": drawn}


def load(spec: str, read: Read | None = None) -> ImageData:
    """The data that ``spec`` names. Raises BadInput, saying which forms there are, for anything else.

    ``read``: how an image of a folder is read; by default as it is, and all must be of one size.
    """
    path = Path(spec)
    scheme = spec.partition(":")[0]
    if spec == "digits":
        return digits(spec)
    if scheme in SCHEMES and ":" in spec:
        return SCHEMES[scheme](spec)
    if path.suffix == ".npz":
        if not path.is_file():
            raise BadInput(f"data file {spec} does not exist")
        return npz(spec)
    return image_folder(spec, read) if path.is_dir() else hub(spec)
