"""The sparse kernel: y = activation(W x + bias + residual), W as streams of kept weights. Most time is spent here.

One item is a tile (some neighbouring vectors of lanes of one image) of a part of the output channels. Per row of W
and block of its input channels there is a stream of pairs (16-bit offset in units of 32 bytes, float32 value); per
pair, one broadcast and as many multiply-adds with a memory operand as the tile has vectors.
"""

from runtime.engines.native.emitter import LINE, Count, Int
from runtime.engines.native.kernels.kernel import Context, Kernel, located
from runtime.engines.native.kernels.sums import OUTPUT_FIELDS, Tile

OFFSET_UNIT = 4
"""Bytes per unit of a stream's offset."""
FIELDS = (
    *located("x"), "x_thread", *OUTPUT_FIELDS, "values", "offsets", "rows", "row_count", "block_bases",
    "parts", "part_count", "starts", "tiles", "tile_count",
)  # fmt: skip
"""`x_thread`: bytes from thread to thread where x is memory of the thread, else 0. `rows`: uint16 [blocks, row_count,
2], output channel and number of weights of each row. `block_bases`: int64 [blocks], added to x. `parts`: int32, first
row of each part and the end. `starts`: int32 [blocks, part_count], first entry. `tiles`: int32 pairs (first vector,
number of vectors)."""


def _emit(c: Context) -> None:
    k, a = c.k, c.a
    part, place = c.item % a.part_count, c.item // a.part_count
    tile, image = place % a.tile_count, place // a.tile_count
    vector, size = k.load_int(a.tiles + tile * 8, 32), k.load_int(a.tiles + tile * 8 + 4, 32)
    x = a.at("x", image, vector) + c.thread * a.x_thread
    y, r = a.at("y", image, vector), a.at("r", image, vector)
    first, stop = k.load_int(a.parts + part * 4, 32), k.load_int(a.parts + part * 4 + 4, 32)
    for vectors in k.cases(size, range(1, c.machine.max_vectors + 1)):
        with k.loop(0, a.blocks) as block:
            here = x + k.load_int(a.block_bases + block * 8)
            entry = Count(k, k.load_int(a.starts + (block * a.part_count + part) * 4, 32))
            rows = a.rows + block * a.row_count * 4
            out = Tile(c, vectors, block, y, r)
            with k.loop(first, stop) as row:
                _row(c, out, rows + row * 4, entry, here)


def _row(c: Context, out: Tile, row: Int, entry: Count, x: Int) -> None:
    k, a = c.k, c.a
    channel, start = k.load_int(row, 16, signed=False), entry.get()
    stop = start + k.load_int(row + 2, 16, signed=False)
    sums = out.begin(channel)
    with k.loop(start, stop) as place:
        source = x + k.load_int(a.offsets + place * 2, 16, signed=False) * OFFSET_UNIT
        weight = k.broadcast(a.values + place * 4)
        for index, total in enumerate(sums):
            total.set(k.load(source + index * LINE, align=4).times_plus(weight, total.get()))
    entry.set(stop)
    out.finish(channel, sums)


STREAM = Kernel("stream", FIELDS, _emit)
