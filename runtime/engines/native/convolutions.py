"""Plans convolutions and linear layers: gathered pixels, tiles, blocks, packed weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.costs import COSTS, Costs
from runtime.engines.native.emitter import LINE
from runtime.engines.native.kernels.functions import ACTIVATIONS
from runtime.engines.native.kernels.pack import MODES
from runtime.engines.native.layout import Layout, slab, vectors_of
from runtime.engines.native.machine import InstructionSet
from runtime.engines.native.operators import Convolve, Scale
from runtime.engines.native.plan import Buffer, Scratch, Step
from runtime.engines.native.planner import Planner
from runtime.engines.native.streams import ROW_BYTES, WEIGHT_BYTES
from runtime.engines.native.taps import gather_table, tap_copies


@dataclass(frozen=True)
class Sizes:
    """What the cost of a layer depends on."""

    shape: tuple[int, ...]
    """Of the weight: [outputs, inputs, kernel height, kernel width]."""
    kept: int
    """Weights that are not 0."""
    chunk: int
    """Vectors of lanes of a chunk."""
    lines_each: int
    """Vectors of each input channel from which a chunk is computed."""
    machine: InstructionSet


@dataclass(frozen=True)
class Choice:
    """How a layer is computed."""

    kernel: str
    tile: int
    """Vectors of a tile."""
    blocks: int
    """Blocks of input channels."""
    seconds: float
    """Estimate for one chunk of lanes on one thread."""


def plan_convolve(planner: Planner, convolve: Convolve, pick: Callable[[Sizes], Choice] | None = None) -> None:
    """Plan a convolution or linear layer, as `pick` says, by default `choose`."""
    weight, space, layer = convolve.weight, convolve.output.space, convolve.output.name
    outputs, inputs, height, width = weight.shape
    vectors, chunk = vectors_of(space), planner.chunk(space)
    gathered = None if convolve.window.pointwise else _gather(planner, convolve, chunk)
    taps = np.zeros(1, np.int64) if gathered is None else gathered.taps
    lines_each = chunk if gathered is None else gathered.layout.channel_bytes // LINE
    kept = planner.packed.kept(planner.network, layer, weight)
    choice = (pick or choose)(Sizes(weight.shape, len(kept.values), chunk, lines_each, planner.machine))
    tiles = cut_tiles(vectors, chunk, choice.tile)
    places = space.images * len(tiles)
    parts = planner.parts(places, outputs)
    lanes = _plan_input(planner, convolve, gathered, places, outputs * choice.tile * LINE)
    planner.define(convolve.output)
    block_inputs = -(-inputs // choice.blocks)
    if choice.kernel == "dense":
        weights = {
            "blocks": -(-inputs // block_inputs), "weight": weight, "inputs": inputs, "block_inputs": block_inputs,
            "taps": taps, "tap_count": len(taps),
            "parts": cut_evenly(outputs, parts, planner.machine.panel_rows(choice.tile)),
        }  # fmt: skip
    else:
        streams = planner.packed.streams(planner.network, layer, taps, lanes.layout.channel_bytes, block_inputs, parts)
        weights = {
            "blocks": len(streams.block_bases), "block_bases": streams.block_bases, "values": streams.values,
            "offsets": streams.offsets, "rows": streams.rows, "row_count": outputs, "parts": streams.parts,
            "starts": streams.starts,
        }  # fmt: skip
    fields = {
        **lanes.fields, **planner.located("y", convolve.output), **planner.located("r", convolve.residual),
        "bias": convolve.bias, "activation": ACTIVATIONS.index(convolve.activation), **weights, "part_count": parts,
        "tiles": tiles, "tile_count": len(tiles), "scratch": Scratch(), "scratch_thread": lanes.scratch_bytes,
    }  # fmt: skip
    label = (
        f"{layer}: {inputs}->{outputs} {height}x{width} on {space.images}x{space.lanes}, density "
        f"{kept.density:.3f}, tile {choice.tile}, {weights['blocks']} blocks, {parts} parts"
    )
    macs = len(kept.values) * space.images * space.lanes
    seconds = choice.seconds * space.images * vectors / chunk / planner.threads
    planner.step(choice.kernel, label, places * parts, fields, macs, seconds, lanes.gather)


@dataclass(frozen=True)
class Lanes:
    """Where a layer finds its input."""

    layout: Layout
    fields: dict[str, Any]
    """Arguments for x."""
    scratch_bytes: int
    """Private memory of a thread: partial sums, then gathered pixels, if they are there."""
    gather: Step | None = None
    """What brings a chunk of them there."""


def _plan_input(
    planner: Planner, convolve: Convolve, gathered: "Gathered | None", places: int, partial_bytes: int
) -> Lanes:
    """Decide where the input lies: as it is, gathered chunk by chunk, or gathered by a step of its own."""
    if gathered is None:
        buffer, layout = planner.tensors[convolve.x]
        return Lanes(layout, layout.fields("x", buffer) | {"x_thread": 0}, planner.scratch(partial_bytes))
    layout = gathered.layout
    if places == gathered.places and planner.shared_evenly(places):
        here, nbytes = Scratch(partial_bytes), planner.scratch(partial_bytes + layout.chunk_bytes)
        fields = layout.fields("x", here) | {"x_image": 0, "x_chunk": 0, "x_thread": nbytes}
        return Lanes(layout, fields, nbytes, gathered.into_scratch(here, nbytes))
    buffer = planner.new_buffer(f"{convolve.output.name} gathered", layout.nbytes)
    groups = planner.groups(gathered.fields["channels"], gathered.places)
    items = gathered.places * groups["groups"]
    planner.step(gathered.kernel, gathered.label, items, gathered.into(buffer) | groups)
    return Lanes(layout, layout.fields("x", buffer) | {"x_thread": 0}, planner.scratch(partial_bytes))


@lru_cache(maxsize=4096)
def choose(sizes: Sizes) -> Choice:
    """Choose the cheapest way by the cost model."""
    return min(choices(sizes), key=lambda choice: choice.seconds)


def choices(sizes: Sizes, costs: Costs = COSTS, *, lean: bool = True) -> list[Choice]:
    """All ways that are considered: tiles as even as possible, and none that takes much more memory than weights.

    Without `lean`, those that do are among them: for measuring.
    """
    size = math.prod(sizes.shape)
    kernels = ("stream", "dense") if sizes.kept >= LEAST_DENSE * size else ("stream",)
    most_row_bytes = MOST_ROW_BYTES * sizes.kept * WEIGHT_BYTES
    tiles = {-(-sizes.chunk // pieces) for pieces in range(1, sizes.chunk + 1)}
    return [
        Choice(kernel, tile, blocks, estimate(sizes, kernel, tile, blocks, costs))
        for tile in sorted(tiles, reverse=True)
        if tile <= sizes.machine.max_vectors
        for blocks in BLOCKS
        if blocks <= sizes.shape[1]
        for kernel in kernels
        if not lean or kernel == "dense" or blocks == 1 or sizes.shape[0] * blocks * ROW_BYTES <= most_row_bytes
    ]


def estimate(sizes: Sizes, kernel: str, tile: int, blocks: int, costs: Costs = COSTS) -> float:
    """Seconds of one chunk on one thread by the cost model."""
    outputs, inputs = sizes.shape[:2]
    pieces = -(-sizes.chunk // tile)
    resident = inputs * sizes.lines_each * tile / sizes.chunk * LINE / blocks
    if kernel == "stream":
        return pieces * costs.stream_seconds(sizes.kept, outputs, tile, blocks, resident)
    panel = sizes.machine.panel_rows(tile)
    return pieces * costs.dense_seconds(math.prod(sizes.shape), outputs, tile, blocks, resident, panel)


BLOCKS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
"""Numbers of blocks of input channels that are considered."""
LEAST_DENSE = 0.64
"""Density from which all weights, at 4 bytes, are no larger than the kept ones at 6."""
MOST_ROW_BYTES = 0.045
"""Memory that the beginnings of rows may add to the kept weights: packed weights stay below 6.3 bytes each."""


def cut_evenly(rows: int, parts: int, unit: int) -> NDArray[np.int32]:
    """Cut rows into parts of multiples of `unit`, as far as possible: first row of each part, and the end."""
    cuts = [min(rows, -(-rows * part // parts // unit) * unit) for part in range(parts)]
    return np.array([*cuts, rows], np.int32)


def cut_tiles(vectors: int, chunk: int, size: int) -> NDArray[np.int32]:
    """Cut the vectors of an image into tiles (first vector, number) inside chunks, as even as possible."""
    tiles = []
    for start in range(0, vectors, chunk):
        here = min(chunk, vectors - start)
        count = -(-here // size)
        edges = [start + here * index // count for index in range(count + 1)]
        tiles += [(low, high - low) for low, high in pairwise(edges)]
    return np.array(tiles, np.int32)


@dataclass(frozen=True)
class Gathered:
    """The pixels that a window reads: how they are gathered, and how they lie then."""

    kernel: str
    label: str
    fields: dict[str, Any]
    """Arguments, without where to write."""
    layout: Layout
    taps: NDArray[np.int64]
    """Byte offset of each tap."""
    places: int
    """Chunks of all images."""

    def into(self, buffer: Buffer) -> dict[str, Any]:
        """Arguments that write all chunks into a buffer."""
        layout = self.layout
        return self.fields | {"y": buffer, "y_image": layout.image_bytes, "y_chunk": layout.chunk_bytes, "y_thread": 0}

    def into_scratch(self, scratch: Scratch, thread_bytes: int) -> Step:
        """Step that writes one chunk after the other into memory of the thread."""
        target = {"y": scratch, "y_image": 0, "y_chunk": 0, "y_thread": thread_bytes}
        one_group = {"group": self.fields["channels"], "groups": 1}
        return Step(self.kernel, self.label, self.places, self.fields | target | one_group)


def _gather(planner: Planner, convolve: Convolve, chunk: int) -> Gathered:
    norm = planner.norms.get(convolve.x)
    x = norm.x if norm else convolve.x
    source, source_layout = planner.tensors[x]
    space = convolve.output.space
    copies = tap_copies(convolve.window, space.width, chunk)
    layout = slab(space, x.channels, chunk, copies.lines)
    kernel, table = gather_table(copies, convolve.window, x.space, space, source_layout, layout)
    fields = {
        "x": source, "x_image": source_layout.image_bytes, "x_channel": source_layout.channel_bytes,
        "y_channel": layout.channel_bytes, "table": table, "entries": copies.lines, "chunks": layout.chunks,
        "channels": x.channels, "mode": _mode(norm),
        "scale": norm.scale if norm else 0, "shift": norm.shift if norm else 0,
    }  # fmt: skip
    label = f"{x.name}: {len(copies.copies)} copies of {x.channels} channels, {MODES[_mode(norm)]}"
    return Gathered(kernel, label, fields, layout, copies.taps, space.images * layout.chunks)


def _mode(norm: Scale | None) -> int:
    if norm is None:
        return MODES.index("plain")
    return MODES.index("scaled_relu" if norm.activation == "relu" else "scaled")
