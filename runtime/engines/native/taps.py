"""Which pixels a window reads: the copies of an image in which every tap of a convolution is one constant offset.

Where output lines are a multiple of 8 lanes long, there is a copy for each horizontal tap (and vertical stride phase),
and vertical taps are whole lines further on: loads are aligned to half cache lines. Elsewhere there is a copy for each
tap.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.emitter import LANES, LINE
from runtime.engines.native.layout import Layout
from runtime.engines.native.operators import Space, Window

ALIGNED_LANES = 8


@dataclass(frozen=True, eq=False)
class TapCopies:
    """Copies, each the input moved by (vertical, horizontal) pixels, and where in them each tap reads."""

    copies: list[tuple[int, int]]
    lines_each: int
    """Vectors of one copy of a chunk."""
    taps: NDArray[np.int64]
    """Byte offset of each tap, in row-major order of the kernel."""

    @property
    def lines(self) -> int:
        """Vectors of all copies of a chunk."""
        return len(self.copies) * self.lines_each


@lru_cache(maxsize=512)
def tap_copies(window: Window, width: int, chunk_vectors: int) -> TapCopies:
    """Plan the copies for output lines of `width` lanes."""
    height, across = window.kernel
    down, right = window.dilations
    moves = [(row * down, column * right) for row in range(height) for column in range(across)]
    stride = window.strides[0]
    by_line = width % ALIGNED_LANES == 0 and height > 1
    origins = [(y % stride, x) if by_line else (y, x) for y, x in moves]
    copies = sorted(set(origins))
    steps = [(y - origin) // stride for (y, _), (origin, _) in zip(moves, origins, strict=True)]
    extra = -(-max(steps) * width // LANES)
    lines_each = chunk_vectors + extra
    taps = [
        copies.index(origin) * lines_each * LINE + step * width * 4 for origin, step in zip(origins, steps, strict=True)
    ]
    shifted = [(y - window.pads[0], x - window.pads[1]) for y, x in copies]
    return TapCopies(shifted, lines_each, np.array(taps, np.int64))


@lru_cache(maxsize=512)
def gather_table(
    copies: TapCopies, window: Window, source: Space, target: Space, source_layout: Layout, layout: Layout
) -> tuple[str, NDArray[np.int32]]:
    """Kernel and table that write the copies: [chunks, copies x vectors, entry]."""
    chunk_lanes = layout.chunk_vectors * LANES
    start = np.arange(layout.chunks)[:, None] * chunk_lanes
    lanes = start + np.arange(copies.lines_each * LANES)  # lanes of the output, on past the end for lines further down
    tables = [_offsets(lanes, move, window, source, target, source_layout) for move in copies.copies]
    table = np.stack(tables, axis=1).reshape(layout.chunks, copies.lines, LANES)
    inside = table >= 0
    first = table - 4 * np.arange(LANES)
    base = np.where(inside.any(-1), np.take_along_axis(first, inside.argmax(-1)[..., None], -1)[..., 0], 0)
    if ((first == base[..., None]) | ~inside).all():
        bits = (inside << np.arange(LANES)).sum(-1)
        return "pack_runs", np.stack([base, bits], axis=-1).astype(np.int32)
    return "pack_gather", np.ascontiguousarray(table, dtype=np.int32)


def pool_table(window: Window, source: Space, target: Space, source_layout: Layout) -> NDArray[np.int32]:
    """Table of max pooling: [vectors, taps, lanes]."""
    lanes = np.arange(-(-target.lanes // LANES) * LANES).reshape(-1, LANES)
    moves = [
        (row * window.dilations[0] - window.pads[0], column * window.dilations[1] - window.pads[1])
        for row in range(window.kernel[0])
        for column in range(window.kernel[1])
    ]
    tables = [_offsets(lanes, move, window, source, target, source_layout) for move in moves]
    return np.ascontiguousarray(np.stack(tables, axis=1), dtype=np.int32)


def _offsets(
    lanes: NDArray[np.int64], move: tuple[int, int], window: Window, source: Space, target: Space, layout: Layout
) -> NDArray[np.int64]:
    """Byte offset in the source of the pixel that each lane reads when it is moved; -1 outside the image."""
    row = lanes // target.width * window.strides[0] + move[0]
    column = lanes % target.width * window.strides[1] + move[1]
    inside = (row >= 0) & (row < source.height) & (column >= 0) & (column < source.width)
    return np.where(inside, layout.lane_offsets(np.where(inside, row * source.width + column, 0)), -1)
