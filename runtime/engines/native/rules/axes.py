"""Rules that only move axes around: nothing is computed but concatenation."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx

from runtime.engines.native.fold import resolve_shape
from runtime.engines.native.operators import Join, Tensor
from runtime.engines.native.symbols import MaskTotal, NotUnderstood, Ref, Scores, Symbol, Viewed, Weighted
from runtime.engines.native.views import CHANNELS, LANES, Axis, axis, cut, reshaped
from runtime.engines.native.walk import Attributes, Walk, axes_of, constant


def _viewed(symbol: Symbol) -> Viewed:
    if not isinstance(symbol, Viewed):
        raise NotUnderstood("reads something that is not a plain tensor")
    return symbol


def reshape(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Reshape."""
    del walk, name
    value, wanted = _viewed(inputs[0]), constant(inputs[1], "the shape")
    if attributes.get("allowzero", 0) and 0 in wanted:
        raise NotUnderstood("allowzero")
    return _reshaped(value, resolve_shape(value.shape, wanted))


def _reshaped(value: Viewed, shape: tuple[int, ...]) -> Viewed:
    view = reshaped(value.view, shape)
    if view is None:
        raise NotUnderstood(f"{list(value.shape)} to {list(shape)}")
    return replace(value, view=view)


def flatten(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Flatten."""
    del walk, name
    value = _viewed(inputs[0])
    at = attributes.get("axis", 1) % (len(value.shape) + 1)
    return _reshaped(value, (int(np.prod(value.shape[:at])), int(np.prod(value.shape[at:]))))


def transpose(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Transpose."""
    del walk, name
    value = _viewed(inputs[0])
    order = attributes.get("perm", range(len(value.view))[::-1])
    return replace(value, view=tuple(value.view[index] for index in order))


def unsqueeze(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Unsqueeze."""
    del walk, name
    value = _viewed(inputs[0])
    view = list(value.view)
    count = len(constant(inputs[1], "the axes")) if len(inputs) > 1 else len(attributes["axes"])
    for index in axes_of(attributes, inputs, len(view) + count):
        view.insert(index, ())
    return replace(value, view=tuple(view))


def squeeze(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Squeeze."""
    del walk, name
    value = _viewed(inputs[0])
    gone = axes_of(attributes, inputs, len(value.view))
    if len(inputs) == 1 and "axes" not in attributes:
        gone = [index for index, parts in enumerate(value.view) if not parts]
    return replace(value, view=tuple(parts for index, parts in enumerate(value.view) if index not in gone))


def _cut(ref: Symbol, at: int, start: int, stop: int) -> Ref:
    """Cut a range out of one axis of a tensor."""
    if not isinstance(ref, Ref):
        raise NotUnderstood("reads something that is not a plain tensor")
    found = cut(ref.view[at], start, stop)
    if found is None:
        raise NotUnderstood(f"{start}:{stop} of an axis of {ref.shape[at]}")
    kept, dimension, place = found
    if dimension not in (None, CHANNELS, LANES):
        raise NotUnderstood("takes some rows of the batch")
    first = (ref.first[0] + place * (dimension is CHANNELS), ref.first[1] + place * (dimension is LANES))
    return replace(ref, view=(*ref.view[:at], kept, *ref.view[at + 1 :]), first=first)


def slice_(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Slice of contiguous ranges."""
    del walk, name, attributes
    value = _viewed(inputs[0])
    starts, stops, *rest = (constant(symbol, "the range").tolist() for symbol in inputs[1:])
    axes = rest[0] if rest else range(len(starts))
    for at, start, stop, step in zip(axes, starts, stops, rest[1] if rest[1:] else [1] * len(starts), strict=True):
        size = value.shape[at]
        low, high, _ = slice(start, stop).indices(size)
        if step != 1:
            raise NotUnderstood("a step other than 1")
        value = value if (low, high) == (0, size) else _cut(value, at % len(value.shape), low, high)
    return value


def split(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> tuple[Symbol, ...]:
    """Split with given sizes, or into as many equal parts as there are outputs."""
    del walk, name
    value = _viewed(inputs[0])
    at = attributes.get("axis", 0) % len(value.shape)
    count = attributes["outputs"]
    lengths = [value.shape[at] // count] * count
    if len(inputs) > 1:
        lengths = constant(inputs[1], "the sizes").tolist()
    edges = np.cumsum([0, *lengths]).tolist()
    return tuple(_cut(value, at, low, high) for low, high in pairwise(edges))


def gather(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Gather of one index, or of indices in a row, along an axis."""
    del walk, name
    value, places = _viewed(inputs[0]), constant(inputs[1], "the index")
    at = attributes.get("axis", 0) % len(value.shape)
    wanted = np.atleast_1d(places) % value.shape[at]
    if wanted.ndim > 1 or (np.diff(wanted) != 1).any():
        raise NotUnderstood("indices that are not in a row")
    ref = _cut(value, at, int(wanted[0]), int(wanted[-1]) + 1)
    return ref if places.ndim else replace(ref, view=(*ref.view[:at], *ref.view[at + 1 :]))


def concat(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Concat along the channels."""
    refs = [walk.plain(symbol) for symbol in inputs]
    at = attributes["axis"] % len(refs[0].view)

    def others(ref: Ref) -> tuple[Axis, ...]:
        return (*ref.view[:at], *ref.view[at + 1 :])

    alike = all(others(ref) == others(refs[0]) and ref.tensor.space == refs[0].tensor.space for ref in refs)
    if not alike or any(ref.view[at] != axis(CHANNELS, ref.tensor.channels) for ref in refs):
        raise NotUnderstood("only along the channels of alike tensors")
    channels = sum(ref.tensor.channels for ref in refs)
    output = Tensor(name, channels, refs[0].tensor.space)
    join = Join(output=output, xs=tuple(ref.tensor for ref in refs))
    return walk.add(join, (*refs[0].view[:at], axis(CHANNELS, channels), *refs[0].view[at + 1 :]))


def expand(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Expand to the shape that is there."""
    del walk, name, attributes
    value, wanted = _viewed(inputs[0]), constant(inputs[1], "the shape")
    if np.broadcast_shapes(value.shape, tuple(wanted.tolist())) != value.shape:
        raise NotUnderstood("only of masks")
    return value


def cast(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Cast of what is float32 to float32."""
    del walk, name
    if isinstance(inputs[0], Ref | Scores | Weighted | MaskTotal) and attributes["to"] == onnx.TensorProto.FLOAT:
        return inputs[0]
    raise NotUnderstood("only of masks, or of tensors to float32")


def identity(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Return the input."""
    del walk, name, attributes
    return inputs[0]
