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

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix."""
        arrays = (self.values, self.offsets, self.rows, self.channels, self.block_bases)
        return sum(array.nbytes for array in arrays)


def pack_streams(weight: Floats, taps: NDArray[np.int64], channel_bytes: int, *, block_channels: int) -> Streams:
    """Pack a weight [outputs, inputs, kernel height, kernel width].

    A weight of input c and tap t reads at c * channel_bytes + taps[t] bytes from the tile. `block_channels` inputs are
    one block.
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
    offset = (channel - starts[block]) * channel_bytes + taps[tap]
    if len(starts) > 1:
        order = np.argsort(block.astype(np.uint16), kind="stable")  # rows and places are in order already
        values, offset = values[order], offset[order]
    ends = np.cumsum(counts.ravel()).reshape(counts.shape)
    begins = ends - counts
    pointers = np.concatenate([begins, ends[:, -1:]], axis=1)
    return Streams(
        values=values,
        offsets=(offset // OFFSET_UNIT).astype(np.uint16),
        rows=pointers.astype(np.int32),
        channels=np.arange(outputs, dtype=np.int32),
        block_bases=(starts * channel_bytes).astype(np.int64),
    )


ROW_COST = 6
"""What beginning and ending a row costs, in weights."""


def balance_rows(streams: Streams, parts: int) -> NDArray[np.int32]:
    """Cut rows into at most `parts` parts of about the same cost: first row of each part, and the end."""
    rows = len(streams.channels)
    total = np.cumsum(np.diff(streams.rows, axis=1).sum(axis=0) + ROW_COST)
    wanted = total[-1] * np.arange(1, parts) / parts
    cuts = np.searchsorted(total, wanted, side="left") + 1
    return np.unique(np.array([0, *np.minimum(cuts, rows), rows], np.int32))
