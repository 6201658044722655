"""Files written whole or not at all, and what identifies them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from erasediff.errors import BadInput

LOCK = ".lock"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new one, never half of either."""
    data = content.encode() if isinstance(content, str) else content
    with writable(path.parent):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_json(path: Path, record: Any) -> None:
    """Atomic, indented, and strict: NaN and infinity are not JSON and raise ValueError."""
    write_atomic(path, json.dumps(record, indent=2, allow_nan=False, default=str) + "\n")


def read_text(path: Path) -> str:
    """The file's text. Raises BadInput when it is missing, may not be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_json(path: Path) -> Any:
    """The parsed file. Raises BadInput when it is missing or is not JSON."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path} is not valid JSON: {error}") from None


@contextmanager
def staged_directory(final: Path) -> Iterator[Path]:
    """A temporary directory beside ``final`` that takes its place when the block ends well, and vanishes when not."""
    with writable(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
        try:
            yield staging
            staging.chmod(0o755)
            _put_in_place(staging, final)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def _put_in_place(staging: Path, final: Path) -> None:
    """Rename ``staging`` to ``final``. What was there is only renamed until then, and put back if that fails."""
    if not final.exists():
        staging.replace(final)
        return
    aside = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.")) / final.name
    try:
        final.replace(aside)
        staging.replace(final)
    except BaseException:
        if not final.exists():
            aside.replace(final)
        raise
    finally:
        if final.exists():
            shutil.rmtree(aside.parent, ignore_errors=True)


@contextmanager
def alone_in(place: Path, doing: str) -> Iterator[None]:
    """Hold ``place`` for this process while the block runs; the lock goes with the process, however it ends.

    Raises BadInput where another process holds it. ``doing``: what it is held for, in the error's words.
    """
    with writable(place):
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise BadInput(
                f"another process is {doing} in {place}; wait until it has ended, or give another output_dir"
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writable(place: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write (no permission, full disk) into a BadInput that names ``place``.

    What fails elsewhere, such as a file that cannot be read, stays as it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or not _is_of(error, place):
            raise
        raise BadInput(f"cannot write in {place}: {os.strerror(error.errno).lower()}") from error
    except Exception as error:
        # safetensors reports a full disk as an error of its own, which only its text tells apart.
        if "No space left on device" not in str(error):
            raise
        raise BadInput(f"cannot write in {place}: no space left on device") from error


def _is_of(error: OSError, place: Path) -> bool:
    """Whether an error is about ``place``: by the file that it names or, where it names none, by its kind."""
    if not isinstance(error.filename, (str, bytes)):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    said = Path(os.fsdecode(error.filename))
    named, here = said.resolve(), place.resolve()
    # A parent of it: it could not be made. A bare name: shutil.rmtree names files as the folder's own handle does.
    return here in (named, *named.parents) or named in here.parents or said.name == str(said)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of one file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weight_hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of every safetensors file below ``directory``, by relative path."""
    return {str(p.relative_to(directory)): sha256(p) for p in sorted(directory.rglob("*.safetensors"))}


def joint_hash(hashes: Mapping[str, str]) -> str:
    """One hash for all files of :func:`weight_hashes`: the file's own where there is one, else that of the list."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items())).encode()).hexdigest()
