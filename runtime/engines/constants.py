"""Constants, such as packed weights, that several processes with the same engine and artifact hold only once.

The first process writes them into an anonymous file in memory; the others find theirs there by content and drop their
own. Everyone maps the file read-only. An engine takes part if it places its constants in `constants_in_use()`.
"""

import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

Index = dict[str, tuple[int, int]]
"""Hash of a constant's bytes -> offset and number of bytes in the file."""

ALIGNMENT = 64
LEAST_BYTES = 256
"""Smaller constants are not worth a hash."""


class SharedConstants:
    """A file of constants."""

    def __init__(self, descriptor: int, index: Index | None) -> None:
        """`index` tells what the open file holds; None: nothing yet, and this process fills it."""
        self._descriptor = descriptor
        self._fill = index is None
        self.index: Index = dict(index or {})
        self._end = max((offset + nbytes for offset, nbytes in self.index.values()), default=0)

    def place(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the same constants, as read-only arrays in the file where it holds them, else as they are."""
        found = [self._find(array) for array in arrays]
        if not self._end:
            return list(arrays)
        # Opened anew, because only a descriptor that cannot write lets the file be sealed against writing later.
        readable = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            memory = mmap.mmap(readable, self._end, access=mmap.ACCESS_READ)
        finally:
            os.close(readable)
        return [
            array if offset is None else np.ndarray(array.shape, array.dtype, memory, offset)
            for array, offset in zip(arrays, found, strict=True)
        ]

    def _find(self, array: NDArray[Any]) -> int | None:
        """Where the bytes of a constant lie in the file, if anywhere; while it is being filled they are added."""
        if array.nbytes < LEAST_BYTES:
            return None
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        key = hashlib.sha256(content).hexdigest()
        if key not in self.index and self._fill:
            offset = -(-self._end // ALIGNMENT) * ALIGNMENT
            _write(self._descriptor, content, offset)
            self.index[key] = (offset, content.nbytes)
            self._end = offset + content.nbytes
        return self.index[key][0] if key in self.index else None


def _write(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


_in_use: ContextVar[SharedConstants | None] = ContextVar("shared constants", default=None)


@contextmanager
def sharing(constants: SharedConstants) -> Iterator[None]:
    """Let the engines that are loaded inside share these constants."""
    token = _in_use.set(constants)
    try:
        yield
    finally:
        _in_use.reset(token)


def constants_in_use() -> SharedConstants | None:
    """Return the constants that an engine being loaded here should share; None: it is alone."""
    return _in_use.get()
