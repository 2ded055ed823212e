"""Plans a network: which kernel computes what, from where to where, in which layout. Generates no code, runs nothing.

plan = plan_network(fuse(understand(...)), threads=2, max_vectors=8)
print(plan)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.emitter import LANES, LINE
from runtime.engines.native.fuse import consumers
from runtime.engines.native.graph import Network, Ref
from runtime.engines.native.kernels.attention import MOST_VECTORS
from runtime.engines.native.kernels.functions import ACTIVATIONS
from runtime.engines.native.kernels.pack import MODES
from runtime.engines.native.layout import Layout, chunk_of, chunked, planes, slab, vectors_of
from runtime.engines.native.operators import (
    Attend,
    Average,
    Convolve,
    Embed,
    Floats,
    LayerNorm,
    MaxPool,
    Operator,
    Scale,
    Source,
    Space,
    Tensor,
)
from runtime.engines.native.streams import Streams, balance_rows, pack_streams
from runtime.engines.native.taps import gather_table, pool_table, tap_copies

ITEMS_PER_THREAD = 4
"""Items of a step for each thread: enough to even out what other processes take."""


@dataclass(eq=False)
class Buffer:
    """Memory of one tensor: allocated for the steps from `first` to `last`, which may share memory with others."""

    name: str
    nbytes: int
    first: int
    last: int
    pinned: bool = False
    """Inputs and outputs: alive all the time."""
    offset: int = -1
    """Place in the arena, set once all buffers are known."""


@dataclass(frozen=True)
class Step:
    """One kernel over a number of items. A field is a number, a buffer or a constant array."""

    kernel: str
    label: str
    items: int
    fields: dict[str, Any]
    macs: int = 0
    """Multiply-adds with kept weights."""


@dataclass
class Plan:
    """All steps of a network at one shape."""

    steps: list[Step] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    sources: dict[str, tuple[Buffer, Layout]] = field(default_factory=dict)
    """Float inputs by name."""
    integers: dict[str, tuple[Buffer, Layout, int]] = field(default_factory=dict)
    """Token ids, int32, by input name, with the number of rows of the table."""
    masks: dict[str, tuple[Buffer, Layout]] = field(default_factory=dict)
    """Integer inputs as float32, by input name."""
    outputs: dict[str, tuple[Buffer, Layout, Ref]] = field(default_factory=dict)
    arena_bytes: int = 0
    scratch_bytes: int = 0
    """Private memory of each thread."""

    def __str__(self) -> str:
        lines = [f"{'kernel':12} {'items':>6} {'MACs':>12}  what"]
        lines += [f"{step.kernel:12} {step.items:6} {step.macs:12,}  {step.label}" for step in self.steps]
        lines.append(f"{self.arena_bytes / 2**20:.2f} MiB for {len(self.buffers)} buffers")
        return "\n".join(lines)


Packed = dict[tuple[str, bytes, int, int], Streams]
"""Packed weights by layer, taps, channel step and block: the same at most shapes of one graph."""


def plan_network(network: Network, *, threads: int, max_vectors: int, packed: Packed | None = None) -> Plan:
    """Plan a fused network for `threads` threads and registers for `max_vectors` accumulators.

    Plans of the same graph at other shapes may pass the same `packed`, and then share packed weights.
    """
    planner = _Planner(network, threads, max_vectors, {} if packed is None else packed)
    for operator in network.operators:
        if operator.output not in planner.absorbed:
            planner.place(operator)
    for name, ref in network.outputs.items():
        buffer, layout = planner.tensors[ref.tensor]
        buffer.pinned = True
        planner.plan.outputs[name] = (buffer, layout, ref)
    planner.plan.arena_bytes = assign(planner.plan.buffers)
    return planner.plan


def assign(buffers: list[Buffer]) -> int:
    """Give every buffer a place such that those alive at the same time do not overlap; return the bytes in all."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda one: -one.nbytes):
        alive = [
            other
            for other in placed
            if buffer.pinned or other.pinned or (buffer.first <= other.last and other.first <= buffer.last)
        ]
        offset = 0
        for other in sorted(alive, key=lambda one: one.offset):
            if other.offset - offset >= buffer.nbytes:
                break
            offset = max(offset, -(-(other.offset + other.nbytes) // LINE) * LINE)
        buffer.offset = offset
        placed.append(buffer)
    return max((buffer.offset + buffer.nbytes for buffer in buffers), default=0)


class _Planner:
    def __init__(self, network: Network, threads: int, max_vectors: int, packed: Packed) -> None:
        self.operators, self.threads, self.max_vectors = network.operators, threads, max_vectors
        self.packed = packed
        self.plan = Plan()
        self.tensors: dict[Tensor, tuple[Buffer, Layout]] = {}
        self.outputs = {ref.tensor for ref in network.outputs.values()}
        self.norms = {
            operator.output: operator
            for operator in network.operators
            if isinstance(operator, Scale) and self._is_absorbed(operator)
        }
        self.absorbed = set(self.norms)

    def _is_absorbed(self, scale: Scale) -> bool:
        """Whether all who read a norm apply it themselves while they gather pixels."""
        readers = consumers(self.operators, scale.output)
        gathers = all(
            isinstance(reader, Convolve) and not reader.window.pointwise and reader.residual is not scale.output
            for reader in readers
        )
        plain = scale.residual is None and scale.activation in ("none", "relu")
        return gathers and plain and scale.output not in self.outputs

    def place(self, operator: Operator) -> None:
        PLANNERS[type(operator)](self, operator)

    def layout_for(self, tensor: Tensor) -> Layout:
        """Planes where someone gathers pixels or tokens from the tensor, chunks where only tiles are read."""
        readers = consumers(self.operators, tensor)
        for scale in self.norms.values():
            readers += consumers(self.operators, scale.output) if scale.x is tensor else []
        gathers = any(
            isinstance(reader, MaxPool | Attend)
            or (isinstance(reader, Convolve) and not reader.window.pointwise and reader.window.strides == (1, 1))
            for reader in readers
        )
        make = planes if gathers or tensor in self.outputs else chunked
        return make(tensor.space, tensor.channels)

    def new_buffer(self, name: str, nbytes: int, *, pinned: bool = False) -> Buffer:
        buffer = Buffer(name, nbytes, len(self.plan.steps), len(self.plan.steps), pinned)
        self.plan.buffers.append(buffer)
        return buffer

    def define(self, tensor: Tensor, *, pinned: bool = False) -> tuple[Buffer, Layout]:
        layout = planes(tensor.space, tensor.channels) if pinned else self.layout_for(tensor)
        self.tensors[tensor] = (self.new_buffer(tensor.name, layout.nbytes, pinned=pinned), layout)
        return self.tensors[tensor]

    def step(self, kernel: str, label: str, items: int, fields: dict[str, Any], macs: int = 0) -> None:
        for value in fields.values():
            if isinstance(value, Buffer):
                value.last = len(self.plan.steps)
        self.plan.steps.append(Step(kernel, label, items, fields, macs))

    def groups(self, channels: int, places: int) -> dict[str, int]:
        """Split channels into groups so that there are enough items."""
        groups = min(channels, max(1, -(-ITEMS_PER_THREAD * self.threads // places)))
        group = -(-channels // groups)
        return {"channels": channels, "group": group, "groups": -(-channels // group)}

    def located(self, name: str, tensor: Tensor | None) -> dict[str, object]:
        if tensor is None:
            return Layout(0, 0, 1, 1, 0, 0).fields(name, 0)
        buffer, layout = self.tensors[tensor]
        return layout.fields(name, buffer)

    def mask(self, name: str, space: Space) -> tuple[Buffer, Layout]:
        """Return the integer input as float32, one value per lane, 0 behind the end."""
        if name not in self.plan.masks:
            layout = planes(space, 1)
            self.plan.masks[name] = (self.new_buffer(name, layout.nbytes, pinned=True), layout)
        return self.plan.masks[name]


def _plan_source(planner: _Planner, source: Source) -> None:
    planner.plan.sources[source.name] = planner.define(source.output, pinned=True)


def _plan_convolve(planner: _Planner, convolve: Convolve) -> None:
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


def _plan_pack(planner: _Planner, convolve: Convolve) -> tuple[Buffer, Layout, NDArray[np.int64]]:
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


def _plan_max_pool(planner: _Planner, pool: MaxPool) -> None:
    source, source_layout = planner.tensors[pool.x]
    _, layout = planner.define(pool.output)
    space = pool.output.space
    table = pool_table(pool.window, pool.x.space, space, source_layout)
    groups = planner.groups(pool.x.channels, space.images)
    fields = {
        "x": source, "x_image": source_layout.image_bytes, "x_channel": source_layout.channel_bytes,
        **planner.located("y", pool.output), "table": table, "taps": int(np.prod(pool.window.kernel)),
        "vectors": layout.vectors, **groups,
    }  # fmt: skip
    planner.step("max_pool", pool.output.name, space.images * groups["groups"], fields)


def _plan_scale(planner: _Planner, scale: Scale) -> None:
    _, layout = planner.define(scale.output)
    groups = planner.groups(layout.channels, layout.images)
    fields = {
        **planner.located("x", scale.x), **planner.located("y", scale.output), **planner.located("r", scale.residual),
        "scale": scale.scale, "shift": scale.shift, "activation": ACTIVATIONS.index(scale.activation),
        "vectors": layout.vectors, **groups,
    }  # fmt: skip
    planner.step("map", f"{scale.output.name}, {scale.activation}", layout.images * groups["groups"], fields)


def _plan_layer_norm(planner: _Planner, norm: LayerNorm) -> None:
    _, layout = planner.define(norm.output)
    fields = {
        **planner.located("x", norm.x), **planner.located("y", norm.output), "gamma": norm.gamma, "beta": norm.beta,
        "constants": np.array([1 / layout.channels, norm.epsilon], np.float32),
        "channels": layout.channels, "vectors": layout.vectors,
    }  # fmt: skip
    planner.step("layer_norm", norm.output.name, layout.images * layout.vectors, fields)


def _plan_average(planner: _Planner, average: Average) -> None:
    space, norm = average.x.space, average.norm
    channels = average.x.channels
    target, layout = planner.define(average.output)
    groups = planner.groups(channels, space.images)
    weights: Buffer | Floats
    if average.weights is None:
        weights, image_bytes = np.zeros(vectors_of(space) * LANES, np.float32), 0
        weights[: space.lanes] = 1
    else:
        weights, mask_layout = planner.mask(average.weights.name, space)
        image_bytes = mask_layout.image_bytes
    fields = {
        **planner.located("x", average.x), "y": target, "y_channel": layout.channel_bytes,
        "weights": weights, "weights_image": image_bytes,
        "scale": norm.scale if norm else np.ones(channels, np.float32),
        "shift": norm.shift if norm else np.zeros(channels, np.float32),
        "relu": int(norm is not None and norm.activation == "relu"), "vectors": vectors_of(space), **groups,
    }  # fmt: skip
    planner.step("average", average.output.name, space.images * groups["groups"], fields)


def _plan_embed(planner: _Planner, embed: Embed) -> None:
    space = embed.output.space
    vocabulary, width = embed.table.shape
    ids_layout = planes(space, 1)
    ids = planner.new_buffer(embed.ids, ids_layout.nbytes, pinned=True)
    planner.plan.integers[embed.ids] = (ids, ids_layout, vocabulary)
    _, layout = planner.define(embed.output)
    positions: Floats | int = 0
    if embed.positions is not None:
        positions = np.zeros((width, layout.vectors * LANES), np.float32)
        positions[:, : space.lanes] = embed.positions.T
    fields = {
        "ids": ids, "ids_image": ids_layout.image_bytes, "table": embed.table, "width": width,
        **planner.located("y", embed.output), "positions": positions, "positions_channel": layout.vectors * LINE,
        "vectors": layout.vectors,
    }  # fmt: skip
    planner.step("embed", embed.output.name, layout.images * layout.vectors, fields)


def _plan_attend(planner: _Planner, attend: Attend) -> None:
    space = attend.output.space
    planner.define(attend.output)
    (query, layout), (key, _), (value, _) = (planner.tensors[t] for t in (attend.query, attend.key, attend.value))
    most = min(MOST_VECTORS, planner.max_vectors)
    tiles = cut_tiles(layout.vectors, layout.vectors, most)
    scratch_bytes = space.lanes * most * LINE
    planner.plan.scratch_bytes = max(planner.plan.scratch_bytes, scratch_bytes)
    mask, mask_image, factor, term = None, 0, 1.0, 0.0
    if attend.mask is not None:
        mask, mask_layout = planner.mask(attend.mask.name, space)
        mask_image, factor, term = mask_layout.image_bytes, attend.mask.factor, attend.mask.term
    fields = {
        "q": query, "k": key, "v": value, "image": layout.image_bytes, "channel": layout.channel_bytes,
        **planner.located("y", attend.output), "mask": mask or 0, "mask_image": mask_image,
        "constants": np.array([attend.scale, factor, term], np.float32), "heads": attend.heads,
        "width": layout.channels // attend.heads, "tokens": space.lanes, "tiles": tiles, "tile_count": len(tiles),
        "scratch": SCRATCH, "scratch_thread": scratch_bytes,
    }  # fmt: skip
    label = f"{attend.output.name}: {attend.heads} heads, {space.lanes} tokens"
    macs = 2 * space.images * space.lanes**2 * layout.channels
    planner.step("attention", label, space.images * attend.heads * len(tiles), fields, macs)


SCRATCH = "scratch"
"""A field with this value gets the address of the threads' private memory."""

PLANNERS: dict[type[Operator], Callable[[_Planner, Any], None]] = {
    Attend: _plan_attend, Average: _plan_average, Convolve: _plan_convolve, Embed: _plan_embed,
    LayerNorm: _plan_layer_norm, MaxPool: _plan_max_pool, Scale: _plan_scale, Source: _plan_source,
}  # fmt: skip
