"""How the axes of an ONNX tensor lie in memory, so that moving axes around costs nothing.

A tensor in memory is [images, channels, lanes]. A view gives for each axis of the ONNX tensor the parts it is made of,
outer to inner: attention heads [N, h, T, d] are ((images), (channels, h of them, d apart), (lanes), (channels, d of
them)). Reshape, Transpose, Split, Slice and Squeeze only rewrite the view; an axis of size 1 has no parts.
"""

from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Dimension(Enum):
    """A dimension of memory; REPEAT is none: the same values again and again."""

    IMAGES = 0
    CHANNELS = 1
    LANES = 2
    REPEAT = 3


IMAGES, CHANNELS, LANES, REPEAT = Dimension


@dataclass(frozen=True)
class Part:
    """`size` places along one dimension, `step` apart."""

    dimension: Dimension
    size: int
    step: int


Axis = tuple[Part, ...]
View = tuple[Axis, ...]


def axis(dimension: Dimension, size: int, step: int = 1) -> Axis:
    """Return an axis along one dimension."""
    return (Part(dimension, size, step),) if size > 1 else ()


def sizes(view: View) -> tuple[int, ...]:
    """Shape of the ONNX tensor."""
    return tuple(prod(part.size for part in parts) for parts in view)


def parts_along(view: View, dimension: Dimension) -> list[Part]:
    """Return the parts along one dimension, in the order of the axes."""
    return [part for parts in view for part in parts if part.dimension is dimension]


def indices(view: View, dimension: Dimension) -> NDArray[np.int64]:
    """Places along one dimension that the view covers, in its order, from 0."""
    places = np.zeros(1, np.int64)
    for part in parts_along(view, dimension):
        places = (places[:, None] + np.arange(part.size) * part.step).reshape(-1)
    return places


def reshaped(view: View, shape: tuple[int, ...]) -> View | None:
    """Return the view with another shape, or None where a part would have to be cut unevenly."""
    left = [part for parts in view for part in parts]
    axes = []
    for size in shape:
        taken: list[Part] = []
        while size > 1:
            part = left.pop(0)
            if part.size > size:
                if part.size % size:
                    return None
                rest = Part(part.dimension, part.size // size, part.step)
                part = Part(part.dimension, size, part.step * rest.size)
                left.insert(0, rest)
            if size % part.size:
                return None
            size //= part.size
            taken.append(part)
        axes.append(_joined(taken))
    return tuple(axes)


def _joined(parts: list[Part]) -> Axis:
    """Join neighbours that run on from one to the next."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last is not None and last.dimension is part.dimension and last.step == part.step * part.size:
            joined[-1] = Part(part.dimension, last.size * part.size, part.step)
        else:
            joined.append(part)
    return tuple(joined)


def cut(parts: Axis, start: int, stop: int) -> tuple[Axis, Dimension | None, int] | None:
    """Cut the range [start, stop) out of an axis: the axis left, and the dimension and place where it begins.

    None where the range is not a range of the outermost part.
    """
    size = prod(part.size for part in parts)
    if (start, stop) == (0, size):
        return parts, None, 0
    outer = parts[0]
    inner = size // outer.size
    if start % inner or stop % inner or stop <= start:
        return None
    kept = axis(outer.dimension, (stop - start) // inner, outer.step)
    return kept + parts[1:], outer.dimension, start // inner * outer.step


def moved(view: View, source: Dimension, target: Dimension) -> View:
    """Return the view with the parts along one dimension along another; steps towards REPEAT are 0."""
    return tuple(
        tuple(
            Part(target, part.size, 0 if target is REPEAT else part.step) if part.dimension is source else part
            for part in parts
        )
        for parts in view
    )


def follows(view: View, whole: View) -> bool:
    """Whether `view`, which has no channels, broadcasts to `whole`: the same rows and lanes in the same places."""
    if len(view) > len(whole):
        return False
    padded = ((),) * (len(whole) - len(view)) + view
    wanted = moved(whole, CHANNELS, REPEAT)
    return all(
        parts == want or (not parts and all(part.dimension is REPEAT for part in want))
        for parts, want in zip(padded, wanted, strict=True)
    )


def broadcast(view: View, shape: tuple[int, ...]) -> View:
    """Return the view repeated along its axes of size 1 to a shape to which it broadcasts."""
    whole = np.broadcast_shapes(sizes(view), shape)
    padded = ((),) * (len(whole) - len(view)) + view
    return tuple(parts or axis(REPEAT, size, 0) for parts, size in zip(padded, whole, strict=True))


def in_memory_order(array: NDArray[Any], view: View) -> NDArray[Any]:
    """Array of the view's shape as [images, channels, lanes]."""
    parts = [part for axis_parts in view for part in axis_parts]
    order = sorted(range(len(parts)), key=lambda index: (parts[index].dimension.value, -parts[index].step))
    moved_axes = array.reshape([part.size for part in parts]).transpose(order)
    return moved_axes.reshape([prod(p.size for p in parts_along(view, d)) for d in (IMAGES, CHANNELS, LANES)])
