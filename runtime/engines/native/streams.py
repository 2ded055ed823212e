"""Packs the kept weights of a layer into streams: six bytes each, and four per row and block."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.kernels.stream import OFFSET_UNIT
from runtime.engines.native.operators import Floats
from runtime.errors import UnsupportedModel

REACH = OFFSET_UNIT * 2**16
"""Bytes that an offset spans."""
WEIGHT_BYTES, ROW_BYTES = 6, 4
"""Of a kept weight, and of each row in each block."""
MOST_CHANNELS = 2**16 - 1
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


@dataclass(frozen=True, eq=False)
class Kept:
    """The kept weights of a layer, in order."""

    shape: tuple[int, ...]
    """Of the weight: [outputs, inputs, kernel height, kernel width]."""
    places: NDArray[np.int64]
    values: Floats

    @property
    def density(self) -> float:
        """Share of the weights that is kept."""
        return len(self.values) / max(1, math.prod(self.shape))


def kept_weights(weight: Floats) -> Kept:
    """Find the kept weights of a layer."""
    flat = weight.reshape(-1)
    places = np.flatnonzero(flat != 0)  # twice as fast as without the comparison
    return Kept(weight.shape, places, flat[places])


def pack_streams(
    kept: Kept, taps: NDArray[np.int64], channel_bytes: int, *, block_channels: int, parts: int = 1
) -> Streams:
    """Pack a weight. Raises UnsupportedModel for more outputs or inputs than 16 bits can count.

    A weight of input c and tap t reads at c * channel_bytes + taps[t] bytes from the tile. `block_channels` inputs are
    one block. The rows are cut into `parts` of about the same cost; inside a block and part they are sorted by their
    number of weights, so that the processor can predict where the loop over a row begins.
    """
    outputs, inputs = kept.shape[:2]
    if max(outputs, inputs) > MOST_CHANNELS:
        raise UnsupportedModel(
            f"A sparse layer with {inputs} inputs and {outputs} outputs is too large: the native engine packs at most "
            f"{MOST_CHANNELS} of each. Use another engine, such as onnxruntime."
        )
    reach = max(1, (REACH - int(taps.max()) - OFFSET_UNIT) // channel_bytes)
    size = max(1, min(block_channels, reach, inputs))
    starts = np.arange(0, inputs, size)
    row, place = np.divmod(kept.places.astype(np.int32), inputs * len(taps))
    channel, tap = np.divmod(place, len(taps)) if len(taps) > 1 else (place, 0)
    block = channel // size
    counts = np.bincount(block * outputs + row, minlength=len(starts) * outputs).reshape(len(starts), outputs)
    cuts = balance_rows(counts.sum(axis=0) + ROW_COST * len(starts), parts)
    part = np.repeat(np.arange(parts), np.diff(cuts))
    order = np.lexsort([counts, np.broadcast_to(part, counts.shape)])  # of rows, for each block
    sorted_counts = np.take_along_axis(counts, order, axis=1)
    firsts = np.concatenate([[0], np.cumsum(sorted_counts)])[:-1].reshape(counts.shape)
    begins = np.empty_like(firsts)  # where the entries of a row of a block begin in the stream, by row
    np.put_along_axis(begins, order, firsts, axis=1)
    offset = ((channel - starts[block]) * channel_bytes + taps[tap]) // OFFSET_UNIT
    # Weights come row by row, and by input in each: those of one row and block are together, and in order already.
    run = np.empty(counts.shape, np.int64)
    run.T[...] = np.concatenate([[0], np.cumsum(counts.T)])[:-1].reshape(counts.T.shape)
    target = np.arange(len(row)) + (begins - run)[block, row]
    values, offsets = np.empty(len(row), np.float32), np.empty(len(row), np.uint16)
    values[target], offsets[target] = kept.values, offset
    return Streams(
        values=values,
        offsets=offsets,
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


class Packed:
    """Weights as kernels read them, shared by all plans of an engine."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Kept] = {}
        self._streams: dict[tuple[str, str, bytes, int, int, int], Streams] = {}

    def kept(self, network: str, layer: str, weight: Floats) -> Kept:
        """Kept weights of a layer of a network, found once."""
        key = (network, layer)
        if key not in self._kept:
            self._kept[key] = kept_weights(weight)
        return self._kept[key]

    def streams(
        self, network: str, layer: str, taps: NDArray[np.int64], channel_bytes: int, block_channels: int, parts: int
    ) -> Streams:
        """As `pack_streams`, once for the same layer and arguments."""
        key = (network, layer, taps.tobytes(), channel_bytes, block_channels, parts)
        if key not in self._streams:
            kept = self._kept[network, layer]
            self._streams[key] = pack_streams(kept, taps, channel_bytes, block_channels=block_channels, parts=parts)
        return self._streams[key]
