"""Packs the kept weights of a layer into streams: six bytes each, and four per row and block."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.kernels.stream import OFFSET_UNIT
from runtime.engines.native.operators import Floats

REACH = OFFSET_UNIT * 2**16
"""Bytes that an offset spans."""
ROW_COST = 6
"""What beginning and ending a row costs, in weights."""


@dataclass(frozen=True, eq=False)
class Streams:
    """A sparse matrix as the stream kernel reads it; see its FIELDS."""

    values: Floats
    offsets: NDArray[np.uint16]
    rows: NDArray[np.uint16]
    block_bases: NDArray[np.int64]
    parts: NDArray[np.int32]
    """First row of each part of the rows, and the end."""
    starts: NDArray[np.int32]
    """First entry of each block and part, [blocks, parts]."""

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix."""
        arrays = (self.values, self.offsets, self.rows, self.block_bases, self.parts, self.starts)
        return sum(array.nbytes for array in arrays)


def pack_streams(
    weight: Floats, taps: NDArray[np.int64], channel_bytes: int, *, block_channels: int, parts: int = 1
) -> Streams:
    """Pack a weight [outputs, inputs, kernel height, kernel width], at most 65,535 of each kind.

    A weight of input c and tap t reads at c * channel_bytes + taps[t] bytes from the tile. `block_channels` inputs are
    one block. The rows are cut into `parts` of about the same cost; inside a block and part they are sorted by their
    number of weights, so that the processor can predict where the loop over a row ends.
    """
    outputs, inputs = weight.shape[:2]
    reach = max(1, (REACH - int(taps.max()) - OFFSET_UNIT) // channel_bytes)
    size = max(1, min(block_channels, reach, inputs))
    starts = np.arange(0, inputs, size)
    row, place = np.nonzero(weight.reshape(outputs, -1))
    values = weight.reshape(outputs, -1)[row, place]
    channel, tap = np.divmod(place, len(taps))
    block = channel // size
    counts = np.bincount(block * outputs + row, minlength=len(starts) * outputs).reshape(len(starts), outputs)
    cuts = balance_rows(counts.sum(axis=0) + ROW_COST * len(starts), parts)
    part = np.repeat(np.arange(parts), np.diff(cuts))
    order = np.lexsort([counts, np.broadcast_to(part, counts.shape)])  # of rows, for each block
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(outputs)[None], axis=1)
    offset = (channel - starts[block]) * channel_bytes + taps[tap]
    entries = np.argsort((block * outputs + rank[block, row]).astype(np.int32), kind="stable")
    sorted_counts = np.take_along_axis(counts, order, axis=1)
    firsts = np.concatenate([[0], np.cumsum(sorted_counts)])[:-1].reshape(counts.shape)
    return Streams(
        values=values[entries],
        offsets=(offset[entries] // OFFSET_UNIT).astype(np.uint16),
        rows=np.stack([order, sorted_counts], axis=-1).astype(np.uint16),
        block_bases=(starts * channel_bytes).astype(np.int64),
        parts=cuts,
        starts=firsts[:, np.minimum(cuts[:-1], outputs - 1)].astype(np.int32),
    )


def balance_rows(costs: NDArray[np.int64], parts: int) -> NDArray[np.int32]:
    """Cut rows of these costs into `parts` parts of about the same cost: first row of each part, and the end."""
    total = np.cumsum(costs)
    wanted = total[-1] * np.arange(1, parts) / parts
    cuts = np.searchsorted(total, wanted, side="left") + 1
    return np.array([0, *np.minimum(cuts, len(costs)), len(costs)], np.int32)
