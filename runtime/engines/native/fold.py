"""Evaluates ONNX nodes whose inputs are all known: the shape arithmetic that exporters leave in a graph."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
Attributes = Mapping[str, Any]


def _axes(attributes: Attributes, inputs: list[Array]) -> tuple[int, ...]:
    axes = inputs[1] if len(inputs) > 1 else attributes["axes"]
    return tuple(int(axis) for axis in axes)


def _reshape(_: Attributes, inputs: list[Array]) -> Array:
    return inputs[0].reshape(resolve_shape(inputs[0].shape, inputs[1]))


def _slice(_: Attributes, inputs: list[Array]) -> Array:
    data, starts, ends = inputs[:3]
    axes = inputs[3] if len(inputs) > 3 else np.arange(len(starts))
    steps = inputs[4] if len(inputs) > 4 else np.ones(len(starts), dtype=np.int64)
    places: list[slice] = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places[int(axis)] = slice(int(start), int(end), int(step))
    return data[tuple(places)]


def _squeeze(attributes: Attributes, inputs: list[Array]) -> Array:
    return inputs[0].squeeze(_axes(attributes, inputs) if len(inputs) > 1 else None)


def _divide(_: Attributes, inputs: list[Array]) -> Array:
    left, right = inputs
    return left // right if left.dtype.kind == "i" else np.asarray(left / right, dtype=left.dtype)


def _constant_of_shape(attributes: Attributes, inputs: list[Array]) -> Array:
    value = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    return np.full(inputs[0], value[0])


def _gather_elements(attributes: Attributes, inputs: list[Array]) -> Array:
    data, indices = inputs
    axis = attributes.get("axis", 0) % data.ndim
    # Along the other axes the indices may end before the data does.
    places = tuple(slice(None) if place == axis else slice(size) for place, size in enumerate(indices.shape))
    return np.take_along_axis(data[places], indices, axis)


FOLD: dict[str, Callable[[Attributes, list[Array]], Array]] = {
    "Add": lambda _, inputs: inputs[0] + inputs[1],
    "And": lambda _, inputs: inputs[0] & inputs[1],
    "Cast": lambda attributes, inputs: inputs[0].astype(helper.tensor_dtype_to_np_dtype(attributes["to"])),
    "Concat": lambda attributes, inputs: np.concatenate(inputs, attributes["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Div": _divide,
    "Equal": lambda _, inputs: inputs[0] == inputs[1],
    "Expand": lambda _, inputs: np.broadcast_to(
        inputs[0], np.broadcast_shapes(inputs[0].shape, tuple(inputs[1].tolist()))
    ),
    "Gather": lambda attributes, inputs: np.take(inputs[0], inputs[1], attributes.get("axis", 0)),
    "GatherElements": _gather_elements,
    "Identity": lambda _, inputs: inputs[0],
    "Mod": lambda _, inputs: np.mod(inputs[0], inputs[1]),
    "Mul": lambda _, inputs: inputs[0] * inputs[1],
    "Neg": lambda _, inputs: -inputs[0],
    "Not": lambda _, inputs: ~inputs[0],
    "Or": lambda _, inputs: inputs[0] | inputs[1],
    "Pow": lambda _, inputs: np.power(inputs[0], inputs[1]).astype(inputs[0].dtype),
    "Range": lambda _, inputs: np.arange(inputs[0].item(), inputs[1].item(), inputs[2].item(), inputs[0].dtype),
    "Reshape": _reshape,
    "Slice": _slice,
    "Sqrt": lambda _, inputs: np.sqrt(inputs[0]),
    "Squeeze": _squeeze,
    "Sub": lambda _, inputs: inputs[0] - inputs[1],
    "Transpose": lambda attributes, inputs: inputs[0].transpose(attributes.get("perm")),
    "Unsqueeze": lambda attributes, inputs: np.expand_dims(inputs[0], _axes(attributes, inputs)),
    "Where": lambda _, inputs: np.where(inputs[0], inputs[1], inputs[2]),
}
"""Operator -> what it computes from its attributes and inputs."""


def resolve_shape(old: tuple[int, ...], wanted: Array) -> tuple[int, ...]:
    """Resolve a Reshape: 0 keeps a size, -1 is what is left."""
    shape = [old[index] if size == 0 else int(size) for index, size in enumerate(wanted)]
    if -1 in shape:
        known = -int(np.prod(shape))
        shape[shape.index(-1)] = int(np.prod(old)) // known
    return tuple(shape)
