"""Views against NumPy: a chain of operators on axes shows the same numbers as on the array itself."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.engines.native.views import (
    CHANNELS,
    IMAGES,
    LANES,
    Dimension,
    View,
    axis,
    cut,
    in_memory_order,
    indices,
    reshaped,
    sizes,
)

STEPS = st.lists(st.sampled_from(["reshape", "transpose", "cut"]), max_size=6)


def _seen(memory: NDArray[np.int64], view: View, first: dict[Dimension, int]) -> NDArray[np.int64]:
    """What the view shows of [images, channels, lanes], by its parts alone."""
    places = np.zeros((1,), np.int64)
    strides = {IMAGES: memory.shape[1] * memory.shape[2], CHANNELS: memory.shape[2], LANES: 1}
    for part in (part for parts in view for part in parts):
        steps = np.arange(part.size) * part.step * strides[part.dimension]
        places = (places[:, None] + steps).reshape(-1)
    places = places + sum(place * strides[dimension] for dimension, place in first.items())
    shown: NDArray[np.int64] = memory.reshape(-1)[places].reshape(sizes(view))
    return shown


@given(st.data(), STEPS)
def test_axes_that_are_moved_cut_and_joined_show_what_numpy_shows(data: st.DataObject, steps: list[str]) -> None:
    images, channels, lanes = (data.draw(st.sampled_from([1, 2, 3, 6, 12])) for _ in range(3))
    memory = np.arange(images * channels * lanes).reshape(images, channels, lanes)
    view: View = (axis(IMAGES, images), axis(CHANNELS, channels), axis(LANES, lanes))
    array, first = memory, {IMAGES: 0, CHANNELS: 0, LANES: 0}
    for step in steps:
        if step == "transpose":
            order = data.draw(st.permutations(range(array.ndim)))
            view, array = tuple(view[index] for index in order), array.transpose(order)
        elif step == "reshape":
            shape: list[int] = []
            left = array.size
            while left > 1:
                shape.append(
                    data.draw(st.sampled_from([size for size in (1, 2, 3, 4, 6, 12, left) if left % size == 0]))
                )
                left //= shape[-1]
            moved = reshaped(view, tuple(shape))
            if moved is not None:
                view, array = moved, array.reshape(shape)
        elif array.ndim:
            at = data.draw(st.integers(0, array.ndim - 1))
            stop = data.draw(st.integers(1, array.shape[at]))
            start = data.draw(st.integers(0, stop - 1))
            found = cut(view[at], start, stop)
            if found is not None:
                kept, dimension, place = found
                view = (*view[:at], kept, *view[at + 1 :])
                if dimension is not None:
                    first[dimension] += place
                array = array.take(range(start, stop), at)
        np.testing.assert_array_equal(_seen(memory, view, first), array)


@given(st.permutations(range(4)), st.sampled_from([1, 2, 5]), st.sampled_from([1, 3]))
def test_an_array_of_the_shape_of_a_view_is_put_in_the_order_of_memory(
    order: list[int], images: int, heads: int
) -> None:
    memory = np.arange(images * heads * 4 * 7).reshape(images, heads * 4, 7)
    view: View = (axis(IMAGES, images), axis(CHANNELS, heads, 4), axis(CHANNELS, 4), axis(LANES, 7))
    array = memory.reshape(images, heads, 4, 7).transpose(order)
    np.testing.assert_array_equal(in_memory_order(array, tuple(view[index] for index in order)), memory)


def test_channels_of_a_view_are_counted_in_its_order() -> None:
    view: View = (axis(CHANNELS, 2), axis(LANES, 5), axis(CHANNELS, 3, 2))
    assert indices(view, CHANNELS).tolist() == [0, 2, 4, 1, 3, 5]
    assert indices(view, IMAGES).tolist() == [0]


def test_a_part_that_cannot_be_cut_evenly_is_not_a_view() -> None:
    view: View = (axis(CHANNELS, 6), axis(LANES, 4))
    assert reshaped(view, (4, 6)) is None
    assert cut((*axis(CHANNELS, 3, 4), *axis(LANES, 4)), 2, 6) is None
