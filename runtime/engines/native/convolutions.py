"""Plans convolutions and linear layers: gathered pixels, tiles, blocks, packed weights."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.emitter import LINE
from runtime.engines.native.kernels.functions import ACTIVATIONS
from runtime.engines.native.kernels.pack import MODES
from runtime.engines.native.layout import Layout, chunk_of, slab, vectors_of
from runtime.engines.native.operators import Convolve, Floats, Scale
from runtime.engines.native.plan import Buffer
from runtime.engines.native.planner import ITEMS_PER_THREAD, Planner
from runtime.engines.native.streams import balance_rows, pack_streams
from runtime.engines.native.taps import gather_table, tap_copies


def plan_convolve(planner: Planner, convolve: Convolve) -> None:
    """Plan a convolution or linear layer."""
    weight, taps = convolve.weight, np.zeros(1, np.int64)
    if convolve.window.pointwise:
        source, layout = planner.tensors[convolve.x]
    else:
        source, layout, taps = _plan_pack(planner, convolve)
    space = convolve.output.space
    planner.define(convolve.output)
    vectors = vectors_of(space)
    nonzero = int(np.count_nonzero(weight))
    size, block = choose_tile(chunk_of(vectors), weight, nonzero, len(taps), planner.max_vectors)
    tiles = cut_tiles(vectors, chunk_of(vectors), size)
    places = space.images * len(tiles)
    parts = min(-(-ITEMS_PER_THREAD * planner.threads // places), max(1, len(weight) // 4))
    key = (convolve.output.name, taps.tobytes(), layout.channel_bytes, block)
    if key not in planner.packed:
        planner.packed[key] = pack_streams(weight, taps, layout.channel_bytes, block_channels=block)
    streams = planner.packed[key]
    cuts = balance_rows(streams, parts)
    fields = {
        **layout.fields("x", source),
        **planner.located("y", convolve.output),
        **planner.located("r", convolve.residual),
        "bias": convolve.bias,
        "activation": ACTIVATIONS.index(convolve.activation),
        "values": streams.values,
        "offsets": streams.offsets,
        "rows": streams.rows,
        "row_count": len(streams.channels),
        "channels": streams.channels,
        "blocks": len(streams.block_bases),
        "block_bases": streams.block_bases,
        "parts": cuts,
        "part_count": len(cuts) - 1,
        "tiles": tiles,
        "tile_count": len(tiles),
    }
    outputs, inputs, height, width = weight.shape
    density = nonzero / weight.size
    label = (
        f"{convolve.output.name}: {inputs}->{outputs} {height}x{width} on {space.images}x{space.lanes}, density "
        f"{density:.3f}, tile {size}, {len(streams.block_bases)} blocks, {len(cuts) - 1} parts"
    )
    macs = nonzero * space.images * space.lanes
    planner.step("stream", label, places * (len(cuts) - 1), fields, macs)


def choose_tile(chunk: int, weight: Floats, nonzero: int, taps: int, max_vectors: int) -> tuple[int, int]:
    """Vectors of a tile and input channels of a block: the cheapest by the cost model."""
    outputs, inputs = weight.shape[:2]
    per_row = nonzero / max(1, outputs)
    best = (float("inf"), 1, inputs)
    for pieces in range(1, chunk + 1):
        vectors = -(-chunk // pieces)
        if vectors > max_vectors:
            continue
        lines = vectors * taps
        for blocks in (blocks for blocks in BLOCKS if blocks <= inputs):
            resident = inputs * lines * LINE / blocks
            cost = tile_cost(per_row, vectors, blocks, resident) * pieces
            best = min(best, (cost, vectors, -(-inputs // blocks)))
    return best[1], best[2]


L1_BYTES = 40 * 1024
"""Bytes of input that stay in the first cache while a tile is computed."""
BLOCKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Numbers of blocks of input channels that are considered."""


def tile_cost(per_row: float, vectors: int, blocks: int, resident: float) -> float:
    """Estimated cycles of one output row over one tile, for a core with AVX-512 and 48 KiB of L1.

    A weight costs a broadcast and as many loads as vectors, two per cycle, and no less than the latency of a
    multiply-add; loads from L2 cost about twice as much. A row of a block costs a mispredicted branch, and its partial
    sums.
    """
    load = 0.55 if resident <= L1_BYTES else 1.0
    weight = max(4.0, 1.0 + vectors * load)
    return per_row * weight + blocks * (20 + 2 * vectors)


def cut_tiles(vectors: int, chunk: int, size: int) -> NDArray[np.int32]:
    """Cut the vectors of an image into tiles (first vector, number) inside chunks, as even as possible."""
    tiles = []
    for start in range(0, vectors, chunk):
        here = min(chunk, vectors - start)
        count = -(-here // size)
        edges = [start + here * index // count for index in range(count + 1)]
        tiles += [(low, high - low) for low, high in pairwise(edges)]
    return np.array(tiles, np.int32)


def _plan_pack(planner: Planner, convolve: Convolve) -> tuple[Buffer, Layout, NDArray[np.int64]]:
    """Gather the pixels that a window reads; return where they lie, and the byte offset of each tap."""
    norm = planner.norms.get(convolve.x)
    x = norm.x if norm else convolve.x
    source, source_layout = planner.tensors[x]
    space = convolve.output.space
    chunk = chunk_of(vectors_of(space))
    copies = tap_copies(convolve.window, space.width, chunk)
    layout = slab(space, x.channels, copies.lines)
    kernel, table = gather_table(copies, convolve.window, x.space, space, source_layout, layout)
    buffer = planner.new_buffer(f"{convolve.output.name} gathered", layout.nbytes)
    groups = planner.groups(x.channels, space.images * layout.chunks)
    fields = {
        "x": source, "x_image": source_layout.image_bytes, "x_channel": source_layout.channel_bytes,
        "y": buffer, "y_image": layout.image_bytes, "y_chunk": layout.chunk_bytes, "y_channel": layout.channel_bytes,
        "table": table, "entries": copies.lines, "chunks": layout.chunks, **groups,
        "mode": _mode(norm), "scale": norm.scale if norm else 0, "shift": norm.shift if norm else 0,
    }  # fmt: skip
    label = f"{x.name}: {len(copies.copies)} copies of {x.channels} channels, {MODES[_mode(norm)]}"
    planner.step(kernel, label, space.images * layout.chunks * groups["groups"], fields)
    return buffer, layout, copies.taps


def _mode(norm: Scale | None) -> int:
    if norm is None:
        return MODES.index("plain")
    return MODES.index("scaled_relu" if norm.activation == "relu" else "scaled")
