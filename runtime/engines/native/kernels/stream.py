"""The sparse kernel: y = activation(W x + bias + residual), W as streams of kept weights. Most time is spent here.

One item is a tile (some neighbouring vectors of lanes of one image) of a part of the output channels. Per row of W
and block of its input channels there is a stream of pairs (16-bit offset in units of 32 bytes, float32 value); per
pair, one broadcast and as many multiply-adds with a memory operand as the tile has vectors. Partial sums between blocks
stay in y.
"""

from runtime.engines.native.emitter import LINE, Cell, Int
from runtime.engines.native.kernels.functions import RELU, activate
from runtime.engines.native.kernels.kernel import Context, Kernel, located

OFFSET_UNIT = 32
"""Bytes per unit of a stream's offset."""
FIELDS = (
    *located("x"), *located("y"), *located("r"),
    "bias", "activation", "values", "offsets", "rows", "row_count", "channels", "blocks", "block_bases",
    "parts", "part_count", "tiles", "tile_count",
)  # fmt: skip
"""`r` is 0 without a residual. `rows`: int32 [blocks, row_count + 1], where the stream of each row begins. `channels`:
int32 [row_count], the output channel of each row. `block_bases`: int64 [blocks], added to x. `parts`: int32, first row
of each part and the end. `tiles`: int32 pairs (first vector, number of vectors)."""


def _emit(c: Context) -> None:
    k, a = c.k, c.a
    part, place = c.item % a.part_count, c.item // a.part_count
    tile, image = place % a.tile_count, place // a.tile_count
    vector, size = k.load_int(a.tiles + tile * 8, 32), k.load_int(a.tiles + tile * 8 + 4, 32)
    x, y, r = (a.at(tensor, image, vector) for tensor in ("x", "y", "r"))
    first, stop = k.load_int(a.parts + part * 4, 32), k.load_int(a.parts + part * 4 + 4, 32)
    for vectors in k.cases(size, range(1, c.max_vectors + 1)):
        with k.loop(0, a.blocks) as block:
            rows = a.rows + block * (a.row_count + 1) * 4
            here = x + k.load_int(a.block_bases + block * 8)
            with k.loop(first, stop) as row:
                _row(c, vectors, block, rows + row * 4, here, y, r, k.load_int(a.channels + row * 4, 32))


def _row(c: Context, vectors: int, block: Int, row: Int, x: Int, y: Int, r: Int, channel: Int) -> None:
    k, a = c.k, c.a
    out = y + channel * a.y_channel
    sums = [Cell(k, k.vector(0.0)) for _ in range(vectors)]
    with k.builder.if_else(block.compare("==", 0)) as (begins, continues):
        with begins:
            bias = k.broadcast(a.bias + channel * 4)
            for total in sums:
                total.set(bias)
        with continues:
            for index, total in enumerate(sums):
                total.set(k.load(out + index * LINE))
    with k.loop(k.load_int(row, 32), k.load_int(row + 4, 32)) as entry:
        source = x + k.load_int(a.offsets + entry * 2, 16, signed=False) * OFFSET_UNIT
        weight = k.broadcast(a.values + entry * 4)
        for index, total in enumerate(sums):
            total.set(k.load(source + index * LINE, align=4).times_plus(weight, total.get()))
    last = block.compare("==", a.blocks - 1)
    with k.when(k.builder.and_(last, a.r.compare("!=", 0))):
        residual = r + channel * a.r_channel
        for index, total in enumerate(sums):
            total.set(total.get() + k.load(residual + index * LINE))
    with k.when(k.builder.and_(last, a.activation.compare("==", RELU))):
        for total in sums:
            total.set(total.get().max(k.vector(0.0)))
    for index, total in enumerate(sums):
        k.store(out + index * LINE, total.get())
    with k.when(k.builder.and_(last, a.activation.compare(">", RELU))):
        activate(k, out, vectors, a.activation)


STREAM = Kernel("stream", FIELDS, _emit)
