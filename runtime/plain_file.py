"""Reads the files of an artifact, which may come from anyone: plain ones of limited size, never through a link."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from runtime.errors import ArtifactError

_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""A pipe or a device is opened without waiting for it, and then refused; a link is not followed."""


@contextmanager
def open_plain(path: Path, limit: int) -> Iterator[BufferedReader]:
    """Open a plain file of at most `limit` bytes to read it. Raises ArtifactError for anything else."""
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is missing or not a plain file. Copy or export the artifact again.") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{path} is missing or not a plain file. Copy or export the artifact again.")
    with os.fdopen(descriptor, "rb") as file:
        if found.st_size > limit:
            raise ArtifactError(f"{path} is larger than {_readable(limit)}; nothing of its kind is.")
        yield file


def read_plain(path: Path, limit: int) -> bytes:
    """Content of a plain file of at most `limit` bytes. Raises ArtifactError."""
    with open_plain(path, limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ArtifactError(f"{path} grew while it was read.")
    return content


def hash_plain(path: Path, size: int) -> str:
    """Hex SHA-256 of a plain file of exactly `size` bytes. Raises ArtifactError."""
    with open_plain(path, limit=2**63) as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise ArtifactError(f"{path} has {found} bytes, the manifest says {size}. Copy or export it again.")
        return hashlib.file_digest(file, "sha256").hexdigest()


def _readable(size: int) -> str:
    return f"{size >> 30} GiB" if size >= 2**30 else f"{size >> 20} MiB"
