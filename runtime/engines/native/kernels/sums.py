"""The sums of output channels over a tile: where they begin, and what happens to them at the end.

Kernels that compute y = activation(W x + bias + residual) share this. They go through the input channels in blocks; in
between, partial sums lie in scratch memory of the thread, because neighbouring lines of y may be another thread's.
"""

from dataclasses import dataclass

from runtime.engines.native.emitter import LINE, Cell, Int, Vec
from runtime.engines.native.kernels.functions import RELU, activate
from runtime.engines.native.kernels.kernel import Context, located

LAYER_FIELDS = (
    *located("x"), "x_thread", *located("y"), *located("r"), "bias", "activation", "blocks",
    "parts", "part_count", "tiles", "tile_count", "scratch", "scratch_thread",
)  # fmt: skip
"""`r` is 0 without a residual. `x_thread`: bytes from thread to thread where x is memory of the thread, else 0.
`parts`: int32, first output channel (or place of it) of each part and the end. `tiles`: int32 pairs (first vector,
number of vectors). One item is a tile of one image and a part."""


@dataclass(frozen=True)
class Item:
    """What one item computes: addresses of channel 0 of its tile, and the range of its part."""

    x: Int
    y: Int
    r: Int
    vectors: Int
    part: Int
    first: Int
    stop: Int


def item_of(c: Context) -> Item:
    """Read what the present item is."""
    k, a = c.k, c.a
    part, place = c.item % a.part_count, c.item // a.part_count
    tile, image = place % a.tile_count, place // a.tile_count
    vector, size = k.load_int(a.tiles + tile * 8, 32), k.load_int(a.tiles + tile * 8 + 4, 32)
    x, y, r = (a.at(tensor, image, vector) for tensor in ("x", "y", "r"))
    first, stop = k.load_int(a.parts + part * 4, 32), k.load_int(a.parts + part * 4 + 4, 32)
    return Item(x + c.thread * a.x_thread, y, r, size, part, first, stop)


@dataclass(frozen=True)
class Tile:
    """Some vectors of lanes of all output channels, in one block of input channels."""

    c: Context
    vectors: int
    block: Int
    y: Int
    """Address of channel 0 of the output."""
    r: Int
    """Address of channel 0 of the residual, if there is one."""

    def begin(self, channel: Int) -> list[Cell[Vec]]:
        """Sums of a channel, one for each vector of lanes: the bias, or what the block before has left."""
        k, a = self.c.k, self.c.a
        sums = [Cell(k, k.vector(0.0)) for _ in range(self.vectors)]
        with k.builder.if_else(self.block.compare("==", 0)) as (begins, continues):
            with begins:
                bias = k.broadcast(a.bias + channel * 4)
                for total in sums:
                    total.set(bias)
            with continues:
                partial = self._partial(channel)
                for index, total in enumerate(sums):
                    total.set(k.load(partial + index * LINE))
        return sums

    def finish(self, channel: Int, sums: list[Cell[Vec]]) -> None:
        """Store the sums: after the last block in y, with residual and activation, else for the next block."""
        k, a = self.c.k, self.c.a
        with k.builder.if_else(self.block.compare("==", a.blocks - 1)) as (ends, continues):
            with ends:
                self._end(channel, sums)
            with continues:
                partial = self._partial(channel)
                for index, total in enumerate(sums):
                    k.store(partial + index * LINE, total.get())

    def _end(self, channel: Int, sums: list[Cell[Vec]]) -> None:
        k, a = self.c.k, self.c.a
        with k.when(a.r.compare("!=", 0)):
            residual = self.r + channel * a.r_channel
            for index, total in enumerate(sums):
                total.set(total.get() + k.load(residual + index * LINE))
        with k.when(a.activation.compare("==", RELU)):
            for total in sums:
                total.set(total.get().max(k.vector(0.0)))
        out = self.y + channel * a.y_channel
        for index, total in enumerate(sums):
            k.store(out + index * LINE, total.get())
        with k.when(a.activation.compare(">", RELU)):
            activate(k, out, self.vectors, a.activation)

    def _partial(self, channel: Int) -> Int:
        a = self.c.a
        return a.scratch + self.c.thread * a.scratch_thread + channel * (self.vectors * LINE)
