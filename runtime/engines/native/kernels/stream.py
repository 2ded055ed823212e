"""The sparse kernel: y = activation(W x + bias + residual), W as streams of kept weights. Most time is spent here.

One item is a tile (some neighbouring vectors of lanes of one image) of a part of the output channels. Per row of W
and block of its input channels there is a stream of pairs (16-bit offset in units of 32 bytes, float32 value); per
pair, one broadcast and as many multiply-adds with a memory operand as the tile has vectors.
"""

from runtime.engines.native.emitter import LINE, Cell, Int
from runtime.engines.native.kernels.kernel import Context, Kernel
from runtime.engines.native.kernels.sums import LAYER_FIELDS, Tile, item_of

OFFSET_UNIT = 4
"""Bytes per unit of a stream's offset."""
FIELDS = (*LAYER_FIELDS, "values", "offsets", "rows", "row_count", "block_bases", "starts")
"""`rows`: uint16 [blocks, row_count, 2], output channel and number of weights of each row, which `parts` counts.
`block_bases`: int64 [blocks], added to x. `starts`: int32 [blocks, part_count], first entry."""


def _emit(c: Context) -> None:
    k, a = c.k, c.a
    item = item_of(c)
    for vectors in k.cases(item.vectors, range(1, c.machine.max_vectors + 1)):
        with k.loop(0, a.blocks) as block:
            here = item.x + k.load_int(a.block_bases + block * 8)
            entry = Cell(k, k.load_int(a.starts + (block * a.part_count + item.part) * 4, 32))
            rows = a.rows + block * a.row_count * 4
            out = Tile(c, vectors, block, item.y, item.r)
            with k.loop(item.first, item.stop) as row:
                _row(c, out, rows + row * 4, entry, here)


def _row(c: Context, out: Tile, row: Int, entry: Cell[Int], x: Int) -> None:
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
