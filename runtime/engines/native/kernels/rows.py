"""Passes over whole tensors: elementwise, layer norm, averages over lanes, token embedding."""

from llvmlite import ir

from runtime.engines.native.emitter import I32, INDICES, LANES, LINE, Cell, Emitter, Int, Vec
from runtime.engines.native.kernels.functions import activate
from runtime.engines.native.kernels.kernel import Context, Kernel, located

MAP_FIELDS = (
    *located("x"), *located("y"), *located("r"), "scale", "shift", "activation",
    "vectors", "channels", "group", "groups",
)  # fmt: skip
"""y = activation(x * scale + shift + r); `scale` and `shift` are float32 [channels]; `r` is 0 without a second term."""


def _emit_map(c: Context) -> None:
    k, a = c.k, c.a
    group, image = c.item % a.groups, c.item // a.groups
    with k.loop(group * a.group, (group * a.group + a.group).at_most(a.channels)) as channel:
        scale, shift = k.broadcast(a.scale + channel * 4), k.broadcast(a.shift + channel * 4)
        with k.loop(0, a.vectors) as vector:
            target = a.at("y", image, vector) + channel * a.y_channel
            k.store(target, k.load(a.at("x", image, vector) + channel * a.x_channel).times_plus(scale, shift))
            with k.when(a.r.compare("!=", 0)):
                k.store(target, k.load(target) + k.load(a.at("r", image, vector) + channel * a.r_channel))
            activate(k, target, 1, a.activation)


NORM_FIELDS = (*located("x"), *located("y"), "gamma", "beta", "constants", "channels", "vectors")
"""`constants`: float32 (1 / channels, epsilon)."""
SUMS = 4
"""Partial sums of a reduction over channels: hides the latency of an addition."""


def _emit_layer_norm(c: Context) -> None:
    """Lanes are tokens: mean and variance over the channels are sums of vectors."""
    k, a = c.k, c.a
    vector, image = c.item % a.vectors, c.item // a.vectors
    x, y = a.at("x", image, vector), a.at("y", image, vector)
    share, epsilon = k.broadcast(a.constants), k.broadcast(a.constants + 4)
    mean = _sum_over_channels(k, x, a.x_channel, a.channels, None) * share
    variance = _sum_over_channels(k, x, a.x_channel, a.channels, mean) * share
    factor = k.vector(1.0) / k.intrinsic("llvm.sqrt", variance + epsilon)
    with k.loop(0, a.channels) as channel:
        gamma, beta = k.broadcast(a.gamma + channel * 4), k.broadcast(a.beta + channel * 4)
        centred = k.load(x + channel * a.x_channel) - mean
        k.store(y + channel * a.y_channel, (centred * factor).times_plus(gamma, beta))


def _sum_over_channels(k: Emitter, x: Int, stride: Int, channels: Int, mean: Vec | None) -> Vec:
    """Sum of x over channels or, with a mean, of (x - mean)^2."""
    sums = [Cell(k, k.vector(0.0)) for _ in range(SUMS)]

    def add(channel: Int, total: Cell[Vec]) -> None:
        values = k.load(x + channel * stride)
        centred = None if mean is None else values - mean
        total.set(total.get() + values if centred is None else centred.times_plus(centred, total.get()))

    whole = channels // SUMS
    with k.loop(0, whole) as step:
        for index, total in enumerate(sums):
            add(step * SUMS + index, total)
    with k.loop(whole * SUMS, channels) as channel:
        add(channel, sums[0])
    return (sums[0].get() + sums[1].get()) + (sums[2].get() + sums[3].get())


AVERAGE_FIELDS = (
    *located("x"), "y", "y_channel", "weights", "weights_image", "least", "scale", "shift", "relu",
    "vectors", "channels", "group", "groups",
)  # fmt: skip
"""y[channel][image] = sum over lanes of w * f(x) / max(sum of w, least), f(x) = x * scale + shift, then ReLU if
`relu` is 1. A lane of weight 0 is never read into the sum. Lanes of y are images."""


def _emit_average(c: Context) -> None:
    k, a = c.k, c.a
    group, image = c.item % a.groups, c.item // a.groups
    weights = a.weights + image * a.weights_image
    count = Cell(k, k.vector(0.0))
    with k.loop(0, a.vectors) as vector:
        count.set(count.get() + k.load(weights + vector * LINE, align=4))
    whole = k.splat(count.get().total()).max(k.broadcast(a.least))
    with k.loop(group * a.group, (group * a.group + a.group).at_most(a.channels)) as channel:
        scale, shift = k.broadcast(a.scale + channel * 4), k.broadcast(a.shift + channel * 4)
        total = Cell(k, k.vector(0.0))
        with k.loop(0, a.vectors) as vector:
            values = k.load(a.at("x", image, vector) + channel * a.x_channel).times_plus(scale, shift)
            rectified = values.max(k.vector(0.0))
            values = Vec(k, k.builder.select(a.relu.compare("!=", 0), rectified.value, values.value))
            weight = k.load(weights + vector * LINE, align=4)
            counts = k.builder.fcmp_unordered("!=", weight.value, k.vector(0.0).value)
            total.set(total.get() + (values * weight).where(counts, k.vector(0.0)))
        average = k.splat(total.get().total()) / whole
        first = k.builder.extract_element(average.value, ir.Constant(I32, 0))
        k.store_float(a.y + channel * a.y_channel + image * 4, first)


EMBED_FIELDS = (
    "ids", "ids_image", "table", "width", *located("y"), "positions", "positions_channel", "vectors",
)  # fmt: skip
"""`ids`: int32 per lane, inside the table. `table`: float32 [vocabulary, width]. `positions`: float32 planes or 0."""


def _emit_embed(c: Context) -> None:
    k, a = c.k, c.a
    vector, image = c.item % a.vectors, c.item // a.vectors
    ids = k.indices(a.ids + image * a.ids_image + vector * LINE)
    row_bytes = k.builder.trunc((a.width * 4).value, I32)
    one = k.builder.insert_element(ir.Constant(INDICES, ir.Undefined), row_bytes, ir.Constant(I32, 0))
    every = k.builder.shuffle_vector(one, ir.Constant(INDICES, ir.Undefined), ir.Constant(INDICES, [0] * LANES))
    offsets = k.builder.mul(ids, every)
    inside = k.builder.icmp_signed(">=", offsets, ir.Constant(INDICES, [0] * LANES))
    y = a.at("y", image, vector)
    with k.loop(0, a.width) as channel:
        values = k.gather(a.table + channel * 4, offsets, inside, k.vector(0.0))
        k.store(y + channel * a.y_channel, values)
    with k.when(a.positions.compare("!=", 0)), k.loop(0, a.width) as channel:
        place = y + channel * a.y_channel
        k.store(place, k.load(place) + k.load(a.positions + channel * a.positions_channel + vector * LINE, align=4))


MAP = Kernel("map", MAP_FIELDS, _emit_map)
LAYER_NORM = Kernel("layer_norm", NORM_FIELDS, _emit_layer_norm)
AVERAGE = Kernel("average", AVERAGE_FIELDS, _emit_average)
EMBED = Kernel("embed", EMBED_FIELDS, _emit_embed)
