"""Attention of one head for some query tokens: everything is a broadcast scalar times vectors of query lanes.

scores[t2][t1] = scale * sum over d of k[d][t2] q[d][t1], plus the padding of key t2; softmax over t2, which are rows;
out[d][t1] = sum over t2 of v[d][t2] p[t2][t1]. The scores live in scratch memory of the thread.
"""

from runtime.engines.native.emitter import LINE, Cell, Emitter, Int
from runtime.engines.native.kernels.functions import exponential
from runtime.engines.native.kernels.kernel import Context, Kernel, located

FIELDS = (
    "q", "k", "v", "image", "channel", *located("y"), "mask", "mask_image", "constants",
    "heads", "width", "tokens", "tiles", "tile_count", "scratch", "scratch_thread", "clear",
)  # fmt: skip
"""q, k, v: planes with the same strides. `mask`: float32 per key or 0. `constants`: float32 (scale of the scores,
factor and term that turn the mask into what is added to them). `tiles`: int32 pairs (first vector, number of vectors).
`clear`: 1 if weights that are not numbers become 0.
"""
MOST_VECTORS = 4
ROWS = 4
"""Rows that are computed together, so that each vector of lanes is loaded once for all of them."""


def _emit(c: Context) -> None:
    k, a = c.k, c.a
    tile, place = c.item % a.tile_count, c.item // a.tile_count
    head, image = place % a.heads, place // a.heads
    vector, size = k.load_int(a.tiles + tile * 8, 32), k.load_int(a.tiles + tile * 8 + 4, 32)
    start = image * a.image + head * a.width * a.channel
    query, key, value = a.q + start + vector * LINE, a.k + start, a.v + start
    out = a.at("y", image, vector) + head * a.width * a.y_channel
    scratch = a.scratch + c.thread * a.scratch_thread
    limit = min(MOST_VECTORS, c.machine.max_vectors)
    rows = ROWS if c.machine.max_vectors >= 8 else 1
    for vectors in k.cases(size, range(1, limit + 1)):
        stride = k.integer(vectors * LINE)
        _product(k, rows, vectors, a.tokens, a.width, key, k.integer(4), a.channel, query, a.channel, scratch, stride)
        _softmax(c, vectors, scratch, a.mask + image * a.mask_image)
        _product(k, rows, vectors, a.width, a.tokens, value, a.channel, k.integer(4), scratch, stride, out, a.y_channel)


def _product(
    k: Emitter,
    rows: int,
    vectors: int,
    row_count: Int,
    depth: Int,
    left: Int,
    left_row: Int,
    left_step: Int,
    right: Int,
    right_step: Int,
    out: Int,
    out_row: Int,
) -> None:
    """out[row] = sum over step < depth of left[row, step] * right[step], `rows` rows at a time."""

    def panel(row: Int, height: int) -> None:
        sums = [[Cell(k, k.vector(0.0)) for _ in range(vectors)] for _ in range(height)]
        with k.loop(0, depth) as step:
            lanes = [k.load(right + step * right_step + index * LINE) for index in range(vectors)]
            for index, totals in enumerate(sums):
                weight = k.broadcast(left + (row + index) * left_row + step * left_step)
                for lane, total in zip(lanes, totals, strict=True):
                    total.set(lane.times_plus(weight, total.get()))
        for index, totals in enumerate(sums):
            for number, total in enumerate(totals):
                k.store(out + (row + index) * out_row + number * LINE, total.get())

    whole = row_count // rows
    with k.loop(0, whole) as group:
        panel(group * rows, rows)
    if rows > 1:
        with k.loop(whole * rows, row_count) as row:
            panel(row, 1)


def _softmax(c: Context, vectors: int, scores: Int, mask: Int) -> None:
    """Softmax over the rows of scratch, in place, after scaling and masking."""
    k, a = c.k, c.a
    scale, factor, term = (k.broadcast(a.constants + 4 * index) for index in range(3))
    largest = [Cell(k, k.vector(float("-inf"))) for _ in range(vectors)]
    with k.loop(0, a.tokens) as token:
        padding = Cell(k, k.vector(0.0))
        with k.when(a.mask.compare("!=", 0)):
            padding.set(k.broadcast(mask + token * 4).times_plus(factor, term))
        for index, most in enumerate(largest):
            place = scores + token * (vectors * LINE) + index * LINE
            score = k.load(place).times_plus(scale, padding.get())
            k.store(place, score)
            most.set(score.max(most.get()))
    totals = [Cell(k, k.vector(0.0)) for _ in range(vectors)]
    with k.loop(0, a.tokens) as token:
        for index, (most, total) in enumerate(zip(largest, totals, strict=True)):
            place = scores + token * (vectors * LINE) + index * LINE
            power = exponential(k, k.load(place) - most.get())
            k.store(place, power)
            total.set(total.get() + power)
    shares = [k.vector(1.0) / total.get() for total in totals]
    with k.loop(0, a.tokens) as token:
        for index, share in enumerate(shares):
            place = scores + token * (vectors * LINE) + index * LINE
            k.store(place, k.load(place) * share)
    with k.when(a.clear.compare("!=", 0)), k.loop(0, a.tokens * vectors) as line:
        place = scores + line * LINE
        k.store(place, k.vector(0.0).max(k.load(place)))  # a comparison with NaN keeps the 0


ATTENTION = Kernel("attention", FIELDS, _emit)
