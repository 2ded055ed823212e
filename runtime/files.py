"""Atomic writes: a reader, or a killed writer, sees the old content or the new one, never half of it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import AlreadyExists


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill the yielded folder; on success it becomes `path`, on an error nothing is left behind.

    Raises AlreadyExists when `path` exists: folders written this way are immutable.
    """
    if path.exists():
        raise already_exists(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o755)
        for entry in partial.rglob("*"):
            if entry.is_file():
                entry.chmod(0o644)
                _sync(entry)
        _sync(partial)
        partial.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def atomic_write(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write one file. Where it may not replace another, raises AlreadyExists if `path` exists by then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.partial-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o644)
        if replace:
            Path(partial).rename(path)
        else:
            _link(Path(partial), path)
            Path(partial).unlink()
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def already_exists(path: Path) -> AlreadyExists:
    """Return the error to raise when `path` would be overwritten."""
    return AlreadyExists(f"{path} exists already and is never overwritten. Remove it or choose another name.")


def _link(partial: Path, path: Path) -> None:
    """Give a file its second name: unlike a rename, this fails when the name has been taken meanwhile."""
    try:
        path.hardlink_to(partial)
    except FileExistsError as error:
        raise already_exists(path) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
