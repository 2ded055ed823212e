"""Rules for layers with weights, norms, pooling and means."""

from dataclasses import replace
from math import prod

import numpy as np

from runtime.engines.native.operators import (
    AveragePool,
    Convolve,
    Embed,
    Floats,
    LayerNorm,
    MaxPool,
    Space,
    Tensor,
    Window,
)
from runtime.engines.native.symbols import (
    Linear,
    Mask,
    MaskTotal,
    Moment,
    NotUnderstood,
    Ref,
    Symbol,
    Weighted,
    channels_of,
    image_view,
)
from runtime.engines.native.views import CHANNELS, IMAGES, LANES, View, axis, in_memory_order, moved, parts_along
from runtime.engines.native.walk import Attributes, Walk, axes_of, constant, floats


def _window(attributes: Attributes, kernel: tuple[int, ...], ref: Ref) -> tuple[Window, Space]:
    """Return the window and the space of what it writes."""
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or attributes.get("ceil_mode", 0):
        raise NotUnderstood("auto_pad and ceil_mode")
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    space = ref.tensor.space
    lengths = []
    for size, pads, extent, stride, dilation in zip(
        (space.height, space.width), (top + bottom, left + right), kernel, strides, dilations, strict=True
    ):
        lengths.append((size + pads - dilation * (extent - 1) - 1) // stride + 1)
    if min(lengths) < 1:
        raise NotUnderstood("the window is larger than the image")
    window = Window(
        (kernel[0], kernel[1]), (strides[0], strides[1]), (top, left), (dilations[0], dilations[1]), (bottom, right)
    )
    return window, Space(space.images, lengths[0] * lengths[1], lengths[1])


def _require_image(ref: Ref, kernel: tuple[int, ...]) -> None:
    if len(kernel) != 2 or ref.view != image_view(ref.tensor):
        raise NotUnderstood("only two-dimensional images")


def convolution(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Conv; one that reads single pixels takes its channels from axis 1 of anything."""
    x, weight = walk.plain(inputs[0]), floats(inputs[1], "the weight")
    groups = attributes.get("group", 1)
    if groups > 1:
        weight = _ungroup(weight, groups)
    bias = floats(inputs[2], "the bias") if len(inputs) > 2 else np.zeros(len(weight), np.float32)
    single = weight.shape[2:] == (1, 1) and not any(attributes.get("pads", []))
    if single and set(attributes.get("strides", [1])) == {1} and x.view != image_view(x.tensor):
        return linear(walk, name, x, weight[:, :, 0, 0], bias, over=1)
    _require_image(x, weight.shape[2:])
    window, space = _window(attributes, weight.shape[2:], x)
    output = Tensor(name, len(weight), space)
    return walk.add(Convolve(output=output, x=x.tensor, weight=weight, bias=bias, window=window), image_view(output))


def _ungroup(weight: Floats, groups: int) -> Floats:
    """Weight over all input channels: what other groups read is zero, and zeros are skipped."""
    outputs, inputs = weight.shape[:2]
    whole = np.zeros((outputs, inputs * groups, *weight.shape[2:]), np.float32)
    each = outputs // groups
    for group in range(groups):
        rows = slice(group * each, (group + 1) * each)
        whole[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return whole


def linear(walk: Walk, name: str, x: Ref, weight: Floats, bias: Floats | None, *, over: int = -1) -> Ref:
    """Linear layer with weight [outputs, inputs] over one axis: all channels, or all channels and lanes."""
    at = over % len(x.view)
    if weight.ndim != 2 or weight.shape[1] != x.shape[at]:
        raise NotUnderstood(f"a weight {weight.shape} for a tensor {list(x.shape)}")
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    if x.view[at] == channels_of(x.tensor):
        output = Tensor(name, len(weight), x.tensor.space)
        kernel = np.ascontiguousarray(weight)[:, :, None, None]
        convolve = Convolve(output=output, x=x.tensor, weight=kernel, bias=bias)
        return walk.add(convolve, (*x.view[:at], channels_of(output), *x.view[at + 1 :]))
    rows = axis(IMAGES, x.tensor.space.images)
    if tuple(parts for index, parts in enumerate(x.view) if index != at and parts) != ((rows,) if rows else ()):
        raise NotUnderstood("over a part of the channels")
    return _whole_image(walk, name, x, weight, bias, at)


def _whole_image(walk: Walk, name: str, x: Ref, weight: Floats, bias: Floats, at: int) -> Ref:
    """Linear layer over all channels and lanes: a convolution whose window is the whole image."""
    space, last = x.tensor.space, (x.view[at],)
    columns = in_memory_order(np.arange(weight.shape[1]), last).reshape(-1)
    kernel = weight[:, columns].reshape(len(weight), x.tensor.channels, space.height, space.width)
    output = Tensor(f"{name} of the whole image", len(weight), Space(space.images, 1, 1))
    window = Window((space.height, space.width))
    kernel = np.ascontiguousarray(kernel)
    ref = walk.add(Convolve(output=output, x=x.tensor, weight=kernel, bias=bias, window=window), x.view)
    view = (*x.view[:at], channels_of(output), *x.view[at + 1 :])
    return walk.average(name, ref, view)


def gemm(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Gemm with a constant weight."""
    if attributes.get("transA", 0):
        raise NotUnderstood("transA")
    weight = floats(inputs[1], "the weight") * np.float32(attributes.get("alpha", 1.0))
    weight = weight if attributes.get("transB", 0) else weight.T
    bias = None
    if len(inputs) > 2:
        beta = np.float32(attributes.get("beta", 1.0))
        bias = np.broadcast_to(floats(inputs[2], "the bias") * beta, (1, len(weight)))[0].copy()
    return linear(walk, name, walk.plain(inputs[0]), weight, bias)


def batch_norm(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """BatchNormalization with fixed statistics, over axis 1."""
    x = walk.plain(inputs[0])
    if x.view[1] != channels_of(x.tensor):
        raise NotUnderstood("over an axis that is not the channels")
    gamma, beta, mean, variance = (constant(value, "statistics").astype(np.float64) for value in inputs[1:5])
    scale = gamma / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    shift = beta - mean * scale
    return walk.scale(name, x, scale=scale.astype(np.float32), shift=shift.astype(np.float32))


def layer_norm(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """LayerNormalization over the channels, which are the last axis."""
    x = walk.plain(inputs[0])
    rank = len(x.view)
    if attributes.get("axis", -1) % rank != rank - 1 or x.view[-1] != channels_of(x.tensor):
        raise NotUnderstood("only over the channels of tokens or rows")
    gamma = floats(inputs[1], "the scale")
    beta = floats(inputs[2], "the shift") if len(inputs) > 2 else np.zeros_like(gamma)
    output = Tensor(name, x.tensor.channels, x.tensor.space)
    epsilon = attributes.get("epsilon", 1e-5)
    return walk.add(LayerNorm(output=output, x=x.tensor, gamma=gamma, beta=beta, epsilon=epsilon), x.view)


def max_pool(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """MaxPool."""
    x, kernel = walk.plain(inputs[0]), tuple(attributes["kernel_shape"])
    _require_image(x, kernel)
    window, space = _window(attributes, kernel, x)
    output = Tensor(name, x.tensor.channels, space)
    return walk.add(MaxPool(output=output, x=x.tensor, window=window), image_view(output))


def average_pool(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """AveragePool; over the whole image it is a mean over lanes."""
    x, kernel = walk.plain(inputs[0]), tuple(attributes["kernel_shape"])
    _require_image(x, kernel)
    window, space = _window(attributes, kernel, x)
    if space.lanes == 1 and kernel == (x.tensor.space.height, x.tensor.space.width) and not any(window.pads):
        return walk.average(name, x, (*x.view[:2], (), ()))
    output = Tensor(name, x.tensor.channels, space)
    pads_count = bool(attributes.get("count_include_pad", 0))
    pool = AveragePool(output=output, x=x.tensor, window=window, pads_count=pads_count)
    return walk.add(pool, image_view(output))


def reduce_mean(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """ReduceMean over all pixels or tokens, or over the channels in a layer norm."""
    value, keep = inputs[0], attributes.get("keepdims", 1)
    if isinstance(value, Moment):
        rank = len(value.x.view)
        if value.stage != "squares" or not keep or axes_of(attributes, inputs, rank) != [value.over]:
            raise NotUnderstood("not the form of a layer norm")
        return replace(value, stage="variance")
    if not isinstance(value, Ref):
        value = walk.plain(value)
    over = axes_of(attributes, inputs, len(value.view))
    if _are_lanes(value, over):
        x = walk.plain(value)
        return walk.average(name, x, _without(x.view, over, keep))
    if not any(value.view[index] for index in over):
        return replace(value, view=_without(value.view, over, keep))
    if keep and len(over) == 1 and all(part.dimension is CHANNELS for part in value.view[over[0]]):
        return Moment("mean", value, over[0])
    raise NotUnderstood(f"over axes {over} of {list(value.shape)}")


def global_average_pool(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """GlobalAveragePool."""
    del attributes
    return reduce_mean(walk, name, {"axes": [2, 3]}, inputs[:1])


def _are_lanes(value: Ref | Weighted | Mask, over: list[int]) -> bool:
    """Whether these axes are all lanes and nothing else."""
    parts = [part for index in over for part in value.view[index]]
    return parts_along(tuple(value.view[index] for index in over), LANES) == parts and (
        prod(part.size for part in parts) == prod(part.size for part in parts_along(value.view, LANES))
    )


def _without(view: View, over: list[int], keep: int) -> View:
    """Return the view without these axes, or with sizes of 1."""
    axes = [() if index in over else parts for index, parts in enumerate(view)]
    return tuple(parts for index, parts in enumerate(axes) if keep or index not in over)


def reduce_sum(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """ReduceSum over all pixels or tokens, masked or not, and of the mask itself."""
    value, keep = inputs[0], attributes.get("keepdims", 1)
    if not isinstance(value, Weighted | Mask | Ref):
        value = walk.plain(value)
    over = axes_of(attributes, inputs, len(value.view))
    if not _are_lanes(value, over):
        raise NotUnderstood(f"over axes {over} of {list(value.shape)}")
    view = moved(_without(value.view, over, keep), IMAGES, LANES)
    if isinstance(value, Weighted):
        return replace(value, view=view, summed=True)
    if isinstance(value, Mask):
        return MaskTotal(view, value)
    x = walk.plain(value)
    mean = walk.average(name, x, _without(x.view, over, keep))
    return replace(mean, factor=float(x.tensor.space.lanes))


def embedding(walk: Walk, name: str, table: Floats, ids: Mask, attributes: Attributes) -> Ref:
    """Gather of rows of a constant table by an integer input."""
    plain = isinstance(ids.value, Linear) and ids.value == Linear() and ids.dtype.kind == "i"
    if not plain or len(ids.shape) != 2 or table.ndim != 2 or attributes.get("axis", 0):
        raise NotUnderstood("only rows of a constant table by integer inputs")
    rows, tokens = ids.shape
    output = Tensor(name, table.shape[1], Space(rows, tokens, tokens))
    return walk.add(Embed(output=output, ids=ids.source, table=table), (*ids.view, axis(CHANNELS, table.shape[1])))
