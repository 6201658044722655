"""Where images come from: a DATA argument names one of the sources below.

Sources that come with a test part, or say what is held out, hold that out; the others leave it to ``build``.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from erasediff.data.captions import metadata
from erasediff.data.images import ImageData, build
from erasediff.data.metadata import METADATA
from erasediff.errors import BadInput, listing

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for a bad file
NPZ_ARRAYS = ("images", "labels", "class_names", "held_out", "captions")

Read = Callable[[Path], np.ndarray]
"""The file of an image -> uint8 [H, W] or [H, W, C]."""


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
