"""Encoded images, one by one, wherever they lie: files below a folder, or rows of a Hugging Face data set."""

import hashlib
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.cores import core_budget
from runtime.files import atomic_write
from training.data.errors import DataError
from training.data.fetch import cache_folder, say

HASH_BYTES = 32
"""Of SHA-256."""


class ImageSource(Protocol):
    """N encoded images. Rows may be read by several threads at once."""

    def __len__(self) -> int:
        """Return the number of images."""

    def name(self, row: int) -> str:
        """Return what messages call an image."""

    def name_inside(self, row: int) -> str:
        """Return a name that does not say where the source lies."""

    def read(self, row: int) -> bytes:
        """Return the content of an image file. Raises DataError naming it."""

    def identity(self) -> str:
        """Return a hash that changes when content changes, found without reading the content."""


@dataclass(frozen=True)
class ImageFilesSource:
    """Image files, `root`/name for each of `names`."""

    root: Path
    names: tuple[str, ...]
    """Relative to the root, with forward slashes."""

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        """Return the path of a file."""
        return str(self.root / self.names[row])

    def name_inside(self, row: int) -> str:
        """Return the path of a file, relative to the root."""
        return self.names[row]

    def read(self, row: int) -> bytes:
        """Return the content of a file. Raises DataError."""
        try:
            return (self.root / self.names[row]).read_bytes()
        except OSError as error:
            raise DataError(f"{self.name(row)} cannot be used: {error}") from error

    def identity(self) -> str:
        """Hash of all names, sizes and times of change, under this root. Raises DataError."""
        digest = hashlib.sha256(str(self.root.resolve()).encode())
        for row, name in enumerate(self.names):
            try:
                status = (self.root / name).stat()
            except OSError as error:
                raise DataError(f"{self.name(row)} cannot be used: {error}") from error
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class HubImagesSource:
    """The column `image` of one split of a Hugging Face data set, whose images are left encoded."""

    rows: Any
    title: str

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """Return data set, split and row."""
        return f"{self.title}, row {row}"

    def name_inside(self, row: int) -> str:
        """Return the number of the row."""
        return f"{row:07}"

    def read(self, row: int) -> bytes:
        """Return the encoded image of a row. Raises DataError."""
        content = self.rows[row]["image"]["bytes"]
        if not isinstance(content, bytes):
            raise DataError(f"{self.name(row)} cannot be used: it holds no image.")
        return content

    def identity(self) -> str:
        """Return the fingerprint that `datasets` keeps of all rows."""
        return hashlib.sha256(str(self.rows._fingerprint).encode()).hexdigest()


def hash_images(source: ImageSource) -> NDArray[np.uint8]:
    """SHA-256 of the content of each image, uint8 [N, 32]. Raises DataError naming an unreadable one."""
    digests = np.empty((len(source), HASH_BYTES), dtype=np.uint8)

    def fill(row: int) -> None:
        digests[row] = np.frombuffer(hashlib.sha256(source.read(row)).digest(), dtype=np.uint8)

    for_each_row(fill, len(source))
    return digests


def hash_images_once(source: ImageSource) -> NDArray[np.uint8]:
    """`hash_images`, remembered in the cache: reading all of ImageNet takes minutes, and each run needs its hashes.

    They are taken again as soon as a name, a size or a time of change differs.
    """
    path = cache_folder("digests") / f"{source.identity()}.sha256"
    if path.is_file():
        content = path.read_bytes()
        if len(content) == len(source) * HASH_BYTES:
            return np.frombuffer(content, dtype=np.uint8).reshape(-1, HASH_BYTES)
    say(f"Reading {len(source):,} images once, to know their content: {source.name(0)} ...")
    digests = hash_images(source)
    atomic_write(path, digests.tobytes())
    return digests


def for_each_row(work: Callable[[int], None], count: int) -> None:
    """Call `work(row)` for each row in a pool of as many threads as there are cores; raise the first row's error.

    The processes that torchrun starts on one machine share its cores.
    """
    cores = max(1, core_budget().cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    step = max(1, min(256, count // (8 * cores)))

    def work_on_some(start: int) -> None:
        for row in range(start, min(start + step, count)):
            work(row)

    # The decoder silences Pillow's warnings for a moment. Threads that do so at once may leave them silenced, which is
    # undone here when all are done.
    with warnings.catch_warnings(), ThreadPoolExecutor(cores) as pool:
        for _ in pool.map(work_on_some, range(0, count, step)):
            pass
