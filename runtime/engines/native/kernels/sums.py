"""The sums of one output channel over a tile: where they begin, and what happens to them at the end.

Kernels that compute y = activation(W x + bias + residual) share this. They go through the input channels in blocks; in
between, partial sums lie in y.
"""

from runtime.engines.native.emitter import LINE, Cell, Int
from runtime.engines.native.kernels.functions import RELU, activate
from runtime.engines.native.kernels.kernel import Context, located

OUTPUT_FIELDS = (*located("y"), *located("r"), "bias", "activation", "blocks")
"""`r` is 0 without a residual."""


def begin(c: Context, vectors: int, block: Int, out: Int, channel: Int) -> list[Cell]:
    """Sums of a channel, one for each vector of lanes: the bias, or what the block before has left."""
    k, a = c.k, c.a
    sums = [Cell(k, k.vector(0.0)) for _ in range(vectors)]
    with k.builder.if_else(block.compare("==", 0)) as (begins, continues):
        with begins:
            bias = k.broadcast(a.bias + channel * 4)
            for total in sums:
                total.set(bias)
        with continues:
            for index, total in enumerate(sums):
                total.set(k.load(out + index * LINE))
    return sums


def finish(c: Context, sums: list[Cell], block: Int, out: Int, residual: Int) -> None:
    """Store the sums; after the last block with residual (an address, if there is one at all) and activation."""
    k, a = c.k, c.a
    last = block.compare("==", a.blocks - 1)
    with k.when(k.builder.and_(last, a.r.compare("!=", 0))):
        for index, total in enumerate(sums):
            total.set(total.get() + k.load(residual + index * LINE))
    with k.when(k.builder.and_(last, a.activation.compare("==", RELU))):
        for total in sums:
            total.set(total.get().max(k.vector(0.0)))
    for index, total in enumerate(sums):
        k.store(out + index * LINE, total.get())
    with k.when(k.builder.and_(last, a.activation.compare(">", RELU))):
        activate(k, out, len(sums), a.activation)
