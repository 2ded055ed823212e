"""Packs the kept weights of a layer into streams: six bytes each, and a few per row."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.kernels.stream import OFFSET_UNIT
from runtime.engines.native.operators import Floats

REACH = OFFSET_UNIT * 2**16
"""Bytes that an offset spans."""


@dataclass(frozen=True, eq=False)
class Streams:
    """A sparse matrix as the stream kernel reads it; see its FIELDS."""

    values: Floats
    offsets: NDArray[np.uint16]
    rows: NDArray[np.int32]
    channels: NDArray[np.int32]
    block_bases: NDArray[np.int64]
    parts: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix."""
        arrays = (self.values, self.offsets, self.rows, self.channels, self.block_bases, self.parts)
        return sum(array.nbytes for array in arrays)


def pack_streams(
    weight: Floats, taps: NDArray[np.int64], channel_bytes: int, *, block_channels: int, parts: int
) -> Streams:
    """Pack a weight [outputs, inputs, kernel height, kernel width].

    A weight of input c and tap t reads at c * channel_bytes + taps[t] bytes from the tile. `block_channels` inputs are one
    block; rows are cut into at most `parts` parts with about as many kept weights each.
    """
    outputs, inputs = weight.shape[:2]
    reach = max(1, (REACH - int(taps.max()) - OFFSET_UNIT) // channel_bytes)
    size = max(1, min(block_channels, reach, inputs))
    starts = np.arange(0, inputs, size)
    row, channel, tap = np.nonzero(weight.reshape(outputs, inputs, -1))
    block = channel // size
    order = np.lexsort((tap, channel, row, block))
    row, channel, tap, block = row[order], channel[order], tap[order], block[order]
    offset = (channel - starts[block]) * channel_bytes + taps[tap]
    counts = np.zeros((len(starts), outputs), np.int64)
    np.add.at(counts, (block, row), 1)
    ends = np.cumsum(counts.ravel()).reshape(counts.shape)
    begins = ends - counts
    pointers = np.concatenate([begins, ends[:, -1:]], axis=1)
    assert offset.size == 0 or (offset % OFFSET_UNIT == 0).all()
    return Streams(
        values=weight.reshape(outputs, inputs, -1)[row, channel, tap].astype(np.float32),
        offsets=(offset // OFFSET_UNIT).astype(np.uint16),
        rows=pointers.astype(np.int32),
        channels=np.arange(outputs, dtype=np.int32),
        block_bases=(starts * channel_bytes).astype(np.int64),
        parts=_balance(counts.sum(axis=0) + ROW_COST, parts),
    )


ROW_COST = 6
"""What beginning and ending a row costs, in weights."""


def _balance(costs: NDArray[np.int64], parts: int) -> NDArray[np.int32]:
    """Cut rows into parts of about the same cost: first row of each part, and the end."""
    total = np.cumsum(costs)
    wanted = total[-1] * np.arange(1, parts) / parts
    cuts = np.searchsorted(total, wanted, side="left") + 1
    return np.unique([0, *np.minimum(cuts, len(costs)), len(costs)]).astype(np.int32)
