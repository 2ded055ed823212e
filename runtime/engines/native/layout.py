"""Where the values of a tensor lie in memory.

Lanes are cut into vectors of 16, vectors into chunks; a chunk holds all channels, each with its vectors side by side:
[image][chunk][channel][vector]. With one chunk per image, a channel is a plane; with small chunks, a tile of
neighbouring lanes over all channels is one contiguous piece of memory. The step from channel to channel is an odd
number of cache lines, so that channels spread over all sets of the cache.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.emitter import LANES, LINE
from runtime.engines.native.operators import Space

CHUNKS = (7, 8, 6, 5)
"""Vectors of a chunk, the favourite first: 7 cuts 56 x 56 and 28 x 28 pixels without a rest."""
LARGEST_CHUNK = 8


@dataclass(frozen=True)
class Layout:
    """Strides of a tensor, in bytes."""

    images: int
    channels: int
    vectors: int
    """Vectors of an image."""
    chunk_vectors: int
    channel_bytes: int
    chunk_bytes: int

    @property
    def chunks(self) -> int:
        """Chunks of an image."""
        return -(-self.vectors // self.chunk_vectors)

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return self.chunks * self.chunk_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.images * self.image_bytes

    def lane_offsets(self, lanes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Byte offsets of lanes in channel 0 of an image."""
        vector = lanes // LANES
        chunk, inside = vector // self.chunk_vectors, vector % self.chunk_vectors
        offsets: NDArray[np.int64] = chunk * self.chunk_bytes + inside * LINE + lanes % LANES * 4
        return offsets

    def fields(self, tensor: str, address: object) -> dict[str, object]:
        """Kernel arguments `located(tensor)`."""
        return {
            tensor: address,
            f"{tensor}_image": self.image_bytes,
            f"{tensor}_chunk": self.chunk_bytes,
            f"{tensor}_chunk_vectors": self.chunk_vectors,
            f"{tensor}_channel": self.channel_bytes,
        }


def vectors_of(space: Space) -> int:
    """Vectors that hold the lanes of an image."""
    return -(-space.lanes // LANES)


LEAST_SHARE = 3
"""Vectors of a chunk below which weights are read for too few lanes."""


def chunk_of(vectors: int, threads: int) -> int:
    """Vectors of a chunk for an image of so many: one chunk for each thread, or the least rest, then the favourite."""
    if LEAST_SHARE * threads <= vectors <= LARGEST_CHUNK * threads:
        return -(-vectors // threads)
    if vectors <= LARGEST_CHUNK:
        return vectors
    return min(CHUNKS, key=lambda size: (-(-vectors // size) * size, CHUNKS.index(size)))


def planes(space: Space, channels: int) -> Layout:
    """One chunk per image: each channel contiguous."""
    vectors = vectors_of(space)
    return _layout(space.images, channels, vectors, vectors, vectors)


def chunked(space: Space, channels: int, chunk: int) -> Layout:
    """Chunks of so many vectors: a tile of all channels contiguous."""
    return _layout(space.images, channels, vectors_of(space), chunk, chunk)


def slab(space: Space, channels: int, chunk: int, lines: int) -> Layout:
    """Chunks of gathered copies: each channel of a chunk has `lines` vectors, more than the lanes of the chunk."""
    return _layout(space.images, channels, vectors_of(space), chunk, lines)


def _layout(images: int, channels: int, vectors: int, chunk: int, lines: int) -> Layout:
    channel_bytes = (lines | 1) * LINE
    return Layout(images, channels, vectors, chunk, channel_bytes, channels * channel_bytes)
