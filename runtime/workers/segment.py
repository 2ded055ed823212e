"""Tensors in memory that two processes share: one writes them, the other reads them without a copy.

The memory is an anonymous file: it vanishes with the last process that has it open, however that ends.
"""

import fcntl
import math
import mmap
import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

ALIGNMENT = 64
LEAST_BYTES = 2**16


class Place(BaseModel):
    """Where a tensor lies in a segment."""

    model_config = ConfigDict(frozen=True)

    name: str
    dtype: str
    """As NumPy writes it, with the byte order: `<f4`."""
    shape: tuple[int, ...]
    offset: int
    """In bytes."""


class Segment:
    """One direction between two processes; what is written replaces what was written before. Only grows."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory: mmap.mmap | None = None

    @classmethod
    def create(cls) -> "Segment":
        """Make an empty one, whose descriptor can be handed to another process."""
        descriptor = os.memfd_create("neurotrails-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # Whoever reads beyond the end of a file that was cut off is killed: a broken worker must not do that to us.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return cls(descriptor)

    def write(self, tensors: Mapping[str, NDArray[np.generic]]) -> tuple[Place, ...]:
        """Copy tensors in; returns where they lie."""
        places, end = [], 0
        for name, tensor in tensors.items():
            places.append(Place(name=name, dtype=tensor.dtype.str, shape=tensor.shape, offset=end))
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        if end and (self._memory is None or len(self._memory) < end):
            os.ftruncate(self.descriptor, max(LEAST_BYTES, 1 << (end - 1).bit_length()))
            self._memory = None
        for name, view in self.read(places).items():
            view[...] = tensors[name]
        return tuple(places)

    def read(self, places: Sequence[Place]) -> dict[str, NDArray[np.generic]]:
        """View tensors that lie here; valid until the next write."""
        ends = [place.offset + math.prod(place.shape) * np.dtype(place.dtype).itemsize for place in places]
        if not places:
            return {}
        if self._memory is None or len(self._memory) < max(ends):
            self._memory = mmap.mmap(self.descriptor, 0)  # the old one goes when its last view does
        return {
            place.name: np.ndarray(place.shape, np.dtype(place.dtype), self._memory, place.offset) for place in places
        }

    def holds(self, tensor: NDArray[np.generic]) -> bool:
        """Whether a tensor lies in this memory, as the next write would overwrite it."""
        return self._memory is not None and np.may_share_memory(tensor, np.frombuffer(self._memory, np.uint8))

    def close(self) -> None:
        """Give the memory up."""
        self._memory = None
        os.close(self.descriptor)
