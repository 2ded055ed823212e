"""Gathers of pixels: what puts every tap of a convolution at one offset, and pooling.

A table, shared by all channels, says for each vector to write where its lanes come from. Lanes outside the image are
zero. Scale, shift and ReLU, the norm of a pre-activation network, are applied on the way, before the zeros.
"""

from collections.abc import Callable

from llvmlite import ir

from runtime.engines.native.emitter import INDICES, LANES, LINE, Cell, Emitter, Int, Vec
from runtime.engines.native.kernels.kernel import Context, Fields, Kernel, located

FIELDS = (
    "x", "x_image", "x_channel", "y", "y_image", "y_chunk", "y_channel", "y_thread",
    "table", "entries", "chunks", "channels", "group", "groups", "mode", "scale", "shift",
)  # fmt: skip
"""`table`: per chunk `entries` vectors to write. `group` channels are one item. `mode`: see MODES.
`y_thread`: bytes from thread to thread where y is memory of the thread, else 0."""
MODES = ("plain", "scaled", "scaled_relu")
RUN_ENTRY = 8
"""Bytes per table entry of `pack_runs`: int32 byte offset of the first lane, int32 mask of the lanes inside."""
GATHER_ENTRY = 4 * LANES
"""Bytes per table entry of `pack_gather` and of one tap of `max_pool`: int32 byte offset of each lane, -1 outside."""

Fetch = Callable[[Emitter, Int, Int], tuple[Vec, object]]
"""(emitter, address of the channel, address of the table entry) -> (values, mask of lanes inside)."""


def _fetch_run(k: Emitter, source: Int, entry: Int) -> tuple[Vec, object]:
    mask = k.bits(k.load_int(entry + 4, 32))
    return k.load_masked(source + k.load_int(entry, 32), mask), mask


def _fetch_gather(k: Emitter, source: Int, entry: Int) -> tuple[Vec, object]:
    offsets = k.indices(entry)
    mask = k.builder.icmp_signed(">=", offsets, ir.Constant(INDICES, [0] * LANES))
    return k.gather(source, offsets, mask, k.vector(0.0)), mask


def _emit_pack(fetch: Fetch, entry_bytes: int) -> Callable[[Context], None]:
    def emit(c: Context) -> None:
        k, a = c.k, c.a
        group, place = c.item % a.groups, c.item // a.groups
        chunk, image = place % a.chunks, place // a.chunks
        table = a.table + chunk * a.entries * entry_bytes
        for number in k.cases(a.mode, range(len(MODES))):
            with k.loop(group * a.group, (group * a.group + a.group).at_most(a.channels)) as channel:
                source = a.x + image * a.x_image + channel * a.x_channel
                target = a.y + c.thread * a.y_thread + image * a.y_image + chunk * a.y_chunk + channel * a.y_channel
                scaled = _norm(k, a, channel, number)
                with k.loop(0, a.entries) as entry:
                    values, mask = fetch(k, source, table + entry * entry_bytes)
                    k.store(target + entry * LINE, scaled(values).where(mask, k.vector(0.0)))

    return emit


def _norm(k: Emitter, a: Fields, channel: Int, mode: int) -> Callable[[Vec], Vec]:
    if MODES[mode] == "plain":
        return lambda values: values
    scale, shift = k.broadcast(a.scale + channel * 4), k.broadcast(a.shift + channel * 4)
    if MODES[mode] == "scaled":
        return lambda values: values.times_plus(scale, shift)
    return lambda values: values.times_plus(scale, shift).max(k.vector(0.0))


POOL_FIELDS = (
    "x", "x_image", "x_channel", *located("y"), "table", "taps", "vectors", "channels", "group", "groups",
)  # fmt: skip
"""`table`: per vector to write, `taps` times the byte offset of each lane, -1 outside."""


def _emit_max_pool(c: Context) -> None:
    k, a = c.k, c.a
    group, image = c.item % a.groups, c.item // a.groups
    lowest = k.vector(float("-inf"))
    with k.loop(group * a.group, (group * a.group + a.group).at_most(a.channels)) as channel:
        source = a.x + image * a.x_image + channel * a.x_channel
        with k.loop(0, a.vectors) as vector:
            target = a.at("y", image, vector) + channel * a.y_channel
            k.store(target, lowest)
            with k.loop(0, a.taps) as tap:
                offsets = k.indices(a.table + (vector * a.taps + tap) * GATHER_ENTRY)
                inside = k.builder.icmp_signed(">=", offsets, ir.Constant(INDICES, [0] * LANES))
                k.store(target, k.gather(source, offsets, inside, lowest).max(k.load(target)))


AVERAGE_POOL_FIELDS = (*POOL_FIELDS, "shares")
"""`shares`: float32 per lane to write, what the sum under the window is multiplied by."""


def _emit_average_pool(c: Context) -> None:
    k, a = c.k, c.a
    group, image = c.item % a.groups, c.item // a.groups
    with k.loop(group * a.group, (group * a.group + a.group).at_most(a.channels)) as channel:
        source = a.x + image * a.x_image + channel * a.x_channel
        with k.loop(0, a.vectors) as vector:
            total = Cell(k, k.vector(0.0))
            with k.loop(0, a.taps) as tap:
                values, _ = _fetch_gather(k, source, a.table + (vector * a.taps + tap) * GATHER_ENTRY)
                total.set(total.get() + values)
            share = k.load(a.shares + vector * LINE, align=4)
            k.store(a.at("y", image, vector) + channel * a.y_channel, total.get() * share)


PACK_RUNS = Kernel("pack_runs", FIELDS, _emit_pack(_fetch_run, RUN_ENTRY))
PACK_GATHER = Kernel("pack_gather", FIELDS, _emit_pack(_fetch_gather, GATHER_ENTRY))
MAX_POOL = Kernel("max_pool", POOL_FIELDS, _emit_max_pool)
AVERAGE_POOL = Kernel("average_pool", AVERAGE_POOL_FIELDS, _emit_average_pool)
