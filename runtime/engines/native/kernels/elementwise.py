"""Passes over two tensors, copies of channels, and masks that choose between two numbers."""

from runtime.engines.native.emitter import LANES, LINE, Cell, Vec
from runtime.engines.native.kernels.kernel import Context, Kernel, located

KINDS = ("mul", "div", "add")
"""What `combine` computes -> its number in kernel arguments."""
COMBINE_FIELDS = (
    *located("x"), *located("y"), *located("r"), "kind", "gates", "vectors", "channels", "group", "groups",
)  # fmt: skip
"""y = x `kind` r. If `gates` is 1, r has one value for each channel and image of x: its lanes are images."""


def _emit_combine(c: Context) -> None:
    k, a = c.k, c.a
    group, image = c.item % a.groups, c.item // a.groups
    gate = a.at("r", k.integer(0), image // LANES) + image % LANES * 4
    with k.loop(group * a.group, (group * a.group + a.group).at_most(a.channels)) as channel:
        other = Cell(k, k.vector(0.0))
        with k.when(a.gates.compare("!=", 0)):
            other.set(k.broadcast(gate + channel * a.r_channel))
        with k.loop(0, a.vectors) as vector:
            with k.when(a.gates.compare("==", 0)):  # constants are aligned to floats only
                other.set(k.load(a.at("r", image, vector) + channel * a.r_channel, align=4))
            x = k.load(a.at("x", image, vector) + channel * a.x_channel)
            target = a.at("y", image, vector) + channel * a.y_channel
            for number in k.cases(a.kind, range(len(KINDS))):
                k.store(target, _combined(KINDS[number], x, other.get()))


def _combined(kind: str, x: Vec, other: Vec) -> Vec:
    match kind:
        case "mul":
            return x * other
        case "div":
            return x / other
        case _:
            return x + other


COPY_FIELDS = (*located("x"), *located("y"), "table", "first", "vectors", "channels", "group", "groups")
"""Channel `first` + i of y is channel `table`[i] of x; `table` is int32 [channels]."""


def _emit_copy(c: Context) -> None:
    k, a = c.k, c.a
    group, image = c.item % a.groups, c.item // a.groups
    with k.loop(group * a.group, (group * a.group + a.group).at_most(a.channels)) as channel:
        source = k.load_int(a.table + channel * 4, 32) * a.x_channel
        target = (a.first + channel) * a.y_channel
        with k.loop(0, a.vectors) as vector:
            k.store(a.at("y", image, vector) + target, k.load(a.at("x", image, vector) + source))


CHOOSE_FIELDS = ("x", "x_image", "y", "y_image", "inside", "constants", "vectors")
"""Planes of one channel. y is yes where x equals a number, else no, and 0 where `inside`, float32 per lane, is 0.
`constants`: float32 (number, yes, no)."""


def _emit_choose(c: Context) -> None:
    k, a = c.k, c.a
    number, yes, no = (k.broadcast(a.constants + 4 * index) for index in range(3))
    with k.loop(0, a.vectors) as vector:
        x = k.load(a.x + c.item * a.x_image + vector * LINE)
        inside = k.load(a.inside + vector * LINE, align=4)
        value = yes.where(k.builder.fcmp_ordered("==", x.value, number.value), no)
        value = value.where(k.builder.fcmp_ordered("!=", inside.value, k.vector(0.0).value), k.vector(0.0))
        k.store(a.y + c.item * a.y_image + vector * LINE, value)


COMBINE = Kernel("combine", COMBINE_FIELDS, _emit_combine)
COPY = Kernel("copy", COPY_FIELDS, _emit_copy)
CHOOSE = Kernel("choose", CHOOSE_FIELDS, _emit_choose)
