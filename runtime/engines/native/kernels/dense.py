"""The dense kernel: y = activation(W x + bias + residual) for layers that keep most of their weights.

As the sparse kernel, but each vector of lanes is loaded once for several output channels, whose sums all stay in
registers: the multiply-adds, and no longer the loads, set the speed.
"""

from runtime.engines.native.emitter import LINE, Int
from runtime.engines.native.kernels.kernel import Context, Kernel
from runtime.engines.native.kernels.sums import LAYER_FIELDS, Tile, item_of

FIELDS = (*LAYER_FIELDS, "weight", "inputs", "block_inputs", "taps", "tap_count")
"""`weight`: float32 [outputs, inputs, tap_count]. `block_inputs`: input channels of a block. `taps`: int64 [tap_count],
byte offsets."""


def _emit(c: Context) -> None:
    k, a = c.k, c.a
    item = item_of(c)
    for vectors in k.cases(item.vectors, range(1, c.machine.max_vectors + 1)):
        rows = c.machine.panel_rows(vectors)
        whole = item.first + (item.stop - item.first) // rows * rows
        with k.loop(0, a.blocks) as block:
            out = Tile(c, vectors, block, item.y, item.r)
            with k.loop(item.first, whole, rows) as row:
                _panel(c, out, row, rows, item.x)
            if rows > 1:
                with k.loop(whole, item.stop) as row:
                    _panel(c, out, row, 1, item.x)


def _panel(c: Context, out: Tile, row: Int, rows: int, x: Int) -> None:
    """One block of input channels of some neighbouring output channels."""
    k, a = c.k, c.a
    sums = [out.begin(row + index) for index in range(rows)]
    row_bytes = a.inputs * a.tap_count * 4
    start = out.block * a.block_inputs
    stop = (start + a.block_inputs).at_most(a.inputs)
    with k.loop(0, a.tap_count) as tap:
        moved, weight = x + k.load_int(a.taps + tap * 8), a.weight + row * row_bytes + tap * 4
        with k.loop(start, stop) as channel:
            lanes = [k.load(moved + channel * a.x_channel + index * LINE, align=4) for index in range(out.vectors)]
            for index, totals in enumerate(sums):
                factor = k.broadcast(weight + row_bytes * index + channel * a.tap_count * 4)
                for values, total in zip(lanes, totals, strict=True):
                    total.set(values.times_plus(factor, total.get()))
    for index, totals in enumerate(sums):
        out.finish(row + index, totals)


DENSE = Kernel("dense", FIELDS, _emit)
