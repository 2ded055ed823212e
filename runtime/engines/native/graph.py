"""Understands an ONNX graph at fixed input shapes: from nodes to the operators that the planner knows.

The graph is walked once with symbols for values. A symbol says what a tensor *is* (a tensor with its axes in some
order, attention scores, half a GELU), so views, scalar factors and shape arithmetic vanish, and patterns are recognised
however the exporter arranged them. What is not understood is collected and raised as one UnsupportedModel.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from runtime.engines.native.fold import FOLD, resolve_shape
from runtime.engines.native.operators import (
    Attend,
    Average,
    Convolve,
    Embed,
    Floats,
    LayerNorm,
    MaxPool,
    Operator,
    PaddingMask,
    Scale,
    Source,
    Space,
    Tensor,
    Window,
)
from runtime.errors import UnsupportedModel
from runtime.graph import dense_of

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Ref:
    """`factor` times a tensor, seen with its axes in some order: N rows, C channels, H, W, T tokens, h heads, d width
    of a head, 1 a size of one."""

    tensor: Tensor
    axes: str
    heads: int = 1
    factor: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        space, channels = self.tensor.space, self.tensor.channels
        rows = space.lanes if self.axes in ("NC", "NC11") else space.images
        sizes = {
            "N": rows, "C": channels, "H": space.height, "W": space.width, "T": space.lanes,
            "h": self.heads, "d": channels // self.heads, "1": 1,
        }  # fmt: skip
        return tuple(sizes[axis] for axis in self.axes)


@dataclass(frozen=True)
class Input:
    """An int64 model input, or its mask seen as numbers of some shape."""

    mask: PaddingMask
    shape: tuple[int, ...]
    is_float: bool = False


@dataclass(frozen=True, eq=False)
class ErrorFunction:
    """factor * erf(x) + term: becomes a GELU when it meets x."""

    x: Ref
    factor: float = 1.0
    term: float = 0.0


@dataclass(frozen=True, eq=False)
class Scores:
    """Attention scores, or their softmax."""

    query: Ref
    key: Ref
    scale: float
    mask: PaddingMask | None = None
    normalized: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """[rows, heads, queries, keys]."""
        space = self.query.tensor.space
        return (space.images, self.query.heads, space.lanes, space.lanes)


@dataclass(frozen=True, eq=False)
class Weighted:
    """A tensor [N, T, C] times a mask; summed over tokens or not."""

    x: Ref
    mask: PaddingMask
    summed: bool = False


@dataclass(frozen=True)
class MaskTotal:
    """The sum of a mask over the tokens."""

    mask: PaddingMask


Symbol = Array | Ref | Input | ErrorFunction | Scores | Weighted | MaskTotal


class NotUnderstood(Exception):  # noqa: N818 - reads as a statement
    """A node is not one of the forms that are known; carries why."""


@dataclass(frozen=True)
class Network:
    """Operators in order, and the tensors that are the outputs, by name."""

    operators: list[Operator]
    outputs: dict[str, Ref]


def constants_of(model: onnx.ModelProto) -> dict[str, Array]:
    """All constants of a graph by name; sparse ones as dense arrays."""
    found: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                found[node.output[0]] = numpy_helper.to_array(attribute.t)
            elif attribute.name == "sparse_value":
                found[node.output[0]] = dense_of(attribute.sparse_tensor)
    return found


def require_known(models: Mapping[str, onnx.ModelProto]) -> None:
    """Raise UnsupportedModel that lists all operators, by file, that this engine never supports."""
    unknown = {
        file: sorted({node.op_type for node in model.graph.node} - KNOWN_OPERATORS) for file, model in models.items()
    }
    if any(unknown.values()):
        listed = "; ".join(f"{file}: {', '.join(names)}" for file, names in unknown.items() if names)
        raise UnsupportedModel(
            f"The native engine does not support these operators: {listed}. Use another engine, such as onnxruntime."
        )


def understand(
    model: onnx.ModelProto, constants: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], where: str
) -> Network:
    """Walk a graph whose inputs have these shapes. Raises UnsupportedModel that lists all nodes not understood."""
    walk = _Walk(constants, shapes, model)
    problems = []
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        if any(name and name not in walk.symbols for name in node.input):
            continue  # follows from a problem that is already listed
        try:
            walk.symbols[node.output[0]] = walk.node(node)
        except NotUnderstood as problem:
            problems.append(f"{node.op_type} {node.name or node.output[0]} ({problem})")
    outputs = {}
    for output in model.graph.output:
        symbol = walk.symbols.get(output.name)
        if isinstance(symbol, Ref):
            outputs[output.name] = walk.plain(symbol)
        elif symbol is not None:
            problems.append(f"output {output.name} is not a tensor")
    if problems:
        raise UnsupportedModel(
            f"{where}: the native engine does not support {'; '.join(problems)}. Use another engine, such as "
            "onnxruntime."
        )
    return Network(_needed(walk.operators, {ref.tensor for ref in outputs.values()}), outputs)


def _needed(operators: list[Operator], wanted: set[Tensor]) -> list[Operator]:
    """Operators that the wanted tensors depend on."""
    kept = []
    for operator in reversed(operators):
        if operator.output in wanted:
            kept.append(operator)
            wanted |= set(operator.inputs)
    return kept[::-1]


class _Walk:
    def __init__(
        self, constants: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], model: onnx.ModelProto
    ) -> None:
        self.symbols: dict[str, Symbol] = dict(constants)
        self.operators: list[Operator] = []
        for tensor in model.graph.input:
            if tensor.name not in self.symbols:
                self.symbols[tensor.name] = self._input(tensor, shapes[tensor.name])

    def _input(self, tensor: onnx.ValueInfoProto, shape: tuple[int, ...]) -> Symbol:
        if tensor.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            return Input(PaddingMask(tensor.name), shape)
        axes = {4: "NCHW", 3: "NTC", 2: "NC"}[len(shape)]
        sizes = dict(zip(axes, shape, strict=True))
        space = {
            "NCHW": lambda: Space(sizes["N"], sizes["H"] * sizes["W"], sizes["W"]),
            "NTC": lambda: Space(sizes["N"], sizes["T"], sizes["T"]),
            "NC": lambda: Space(1, sizes["N"], sizes["N"]),
        }[axes]()
        source = Tensor(tensor.name, sizes["C"], space)
        self.operators.append(Source(output=source, name=tensor.name))
        return Ref(source, axes)

    def node(self, node: onnx.NodeProto) -> Symbol:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        inputs = [self.symbols[name] for name in node.input if name]
        name = node.output[0]
        if node.op_type == "Shape":
            return np.array(inputs[0].shape, dtype=np.int64) if hasattr(inputs[0], "shape") else _fail("of no tensor")
        arrays = [symbol for symbol in inputs if isinstance(symbol, np.ndarray)]
        if len(arrays) == len(inputs) and node.op_type in FOLD:
            return np.asarray(FOLD[node.op_type](attributes, arrays))
        return RULES[node.op_type](self, name, attributes, inputs)

    def add(self, operator: Operator, axes: str) -> Ref:
        self.operators.append(operator)
        return Ref(operator.output, axes)

    def plain(self, ref: Symbol) -> Ref:
        """Return the tensor itself: a factor that nothing has absorbed becomes an operator."""
        if not isinstance(ref, Ref):
            raise NotUnderstood("reads something that is not a plain tensor")
        if ref.factor == 1.0:
            return ref
        channels = ref.tensor.channels
        output = Tensor(f"{ref.tensor.name}*{ref.factor:.3g}", channels, ref.tensor.space)
        scale, shift = np.full(channels, ref.factor, np.float32), np.zeros(channels, np.float32)
        self.operators.append(Scale(output=output, x=ref.tensor, scale=scale, shift=shift))
        return replace(ref, tensor=output, factor=1.0)

    def producer(self, tensor: Tensor) -> Operator:
        return next(operator for operator in reversed(self.operators) if operator.output is tensor)


Rule = Callable[[_Walk, str, dict[str, Any], list[Symbol]], Symbol]


def _fail(why: str) -> Any:
    raise NotUnderstood(why)


def _constant(symbol: Symbol, what: str) -> Array:
    return symbol if isinstance(symbol, np.ndarray) else _fail(f"{what} must be a constant")


def _floats(symbol: Symbol, what: str) -> Floats:
    return np.ascontiguousarray(_constant(symbol, what), dtype=np.float32)


def _channel_vector(ref: Ref, constant: Array) -> Floats | None:
    """Return the constant as one value per channel of `ref`, or None if it is not that."""
    axis = ref.axes.find("C")
    shape = (1,) * (len(ref.axes) - constant.ndim) + constant.shape
    wanted = tuple(ref.tensor.channels if index == axis else 1 for index in range(len(ref.axes)))
    if len(shape) > len(ref.axes) or any(size not in (1, want) for size, want in zip(shape, wanted, strict=True)):
        return None
    return np.broadcast_to(constant.reshape(-1), (ref.tensor.channels,)).astype(np.float32)


def _window(attributes: dict[str, Any], kernel: tuple[int, ...], ref: Ref) -> tuple[Window, Space]:
    """Return the window and the space of what it writes."""
    if ref.axes != "NCHW" or len(kernel) != 2:
        raise NotUnderstood("only two-dimensional images")
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or attributes.get("ceil_mode", 0):
        raise NotUnderstood("auto_pad and ceil_mode")
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    space = ref.tensor.space
    sizes = []
    for size, pads, extent, stride, dilation in zip(
        (space.height, space.width), (top + bottom, left + right), kernel, strides, dilations, strict=True
    ):
        sizes.append((size + pads - dilation * (extent - 1) - 1) // stride + 1)
    if min(sizes) < 1:
        raise NotUnderstood("the window is larger than the image")
    window = Window(
        (kernel[0], kernel[1]), (strides[0], strides[1]), (top, left), (dilations[0], dilations[1]), (bottom, right)
    )
    return window, Space(space.images, sizes[0] * sizes[1], sizes[1])


def _conv(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    x, weight = walk.plain(inputs[0]), _floats(inputs[1], "the weight")
    if weight.ndim != 4:
        raise NotUnderstood("only two-dimensional images")
    window, space = _window(attributes, weight.shape[2:], x)
    groups = attributes.get("group", 1)
    if groups > 1:
        weight = _ungroup(weight, groups)
    bias = _floats(inputs[2], "the bias") if len(inputs) > 2 else np.zeros(len(weight), np.float32)
    output = Tensor(name, len(weight), space)
    return walk.add(Convolve(output=output, x=x.tensor, weight=weight, bias=bias, window=window), "NCHW")


def _ungroup(weight: Floats, groups: int) -> Floats:
    """Weight over all input channels: what other groups read is zero, and zeros are skipped."""
    outputs, inputs = weight.shape[:2]
    whole = np.zeros((outputs, inputs * groups, *weight.shape[2:]), np.float32)
    each = outputs // groups
    for group in range(groups):
        whole[group * each : (group + 1) * each, group * inputs : (group + 1) * inputs] = weight[
            group * each : (group + 1) * each
        ]
    return whole


def _linear(walk: _Walk, name: str, x: Ref, weight: Floats, bias: Floats | None) -> Ref:
    """weight [outputs, inputs]."""
    if x.axes not in ("NTC", "NC") or weight.ndim != 2 or weight.shape[1] != x.tensor.channels:
        raise NotUnderstood(f"a weight {weight.shape} for an input with axes {x.axes}")
    output = Tensor(name, len(weight), x.tensor.space)
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    kernel = np.ascontiguousarray(weight)[:, :, None, None]
    return walk.add(Convolve(output=output, x=x.tensor, weight=kernel, bias=bias), x.axes)


def _gemm(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    if attributes.get("transA", 0):
        raise NotUnderstood("transA")
    weight = _floats(inputs[1], "the weight") * np.float32(attributes.get("alpha", 1.0))
    weight = weight if attributes.get("transB", 0) else weight.T
    bias = None
    if len(inputs) > 2:
        beta = np.float32(attributes.get("beta", 1.0))
        bias = np.broadcast_to(_floats(inputs[2], "the bias") * beta, (1, len(weight)))[0].copy()
    return _linear(walk, name, walk.plain(inputs[0]), weight, bias)


def _matmul(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    del attributes
    left, right = inputs
    if isinstance(right, np.ndarray):
        return _linear(walk, name, walk.plain(left), _floats(right, "the weight").T, None)
    if isinstance(left, Ref) and isinstance(right, Ref) and (left.axes, right.axes) == ("NhTd", "NhdT"):
        return Scores(left, right, left.factor * right.factor)
    if isinstance(left, Scores) and left.normalized and isinstance(right, Ref) and right.axes == "NhTd":
        value = walk.plain(right)
        output = Tensor(name, value.tensor.channels, value.tensor.space)
        attend = Attend(
            output=output, query=left.query.tensor, key=left.key.tensor, value=value.tensor, heads=right.heads,
            scale=left.scale, mask=left.mask,
        )  # fmt: skip
        return replace(walk.add(attend, "NhTd"), heads=right.heads)
    raise NotUnderstood("a product of these tensors")


def _sum(walk: _Walk, name: str, left: Symbol, right: Symbol, sign: float) -> Symbol:
    """left + sign * right."""
    if isinstance(left, np.ndarray):
        if sign < 0:
            return _sum(walk, name, _product(walk, name, right, np.array(-1.0)), left, 1)
        left, right = right, left
    if isinstance(right, np.ndarray):
        return _plus_constant(walk, name, left, right * np.float32(sign))
    if isinstance(left, Scores) and isinstance(right, Input) and left.mask is None and sign > 0:
        rows, _, _, keys = left.shape
        if right.shape != (rows, 1, 1, keys):
            raise NotUnderstood("a mask that is not one value per key")
        return replace(left, mask=right.mask)
    if not (isinstance(left, Ref) and isinstance(right, Ref)) or left.axes != right.axes or left.shape != right.shape:
        raise NotUnderstood("a sum of these tensors")
    a, b = walk.plain(left), walk.plain(_product(walk, name, right, np.array(sign)))
    channels = a.tensor.channels
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    output = Tensor(name, channels, a.tensor.space)
    return walk.add(Scale(output=output, x=a.tensor, scale=ones, shift=zeros, residual=b.tensor), a.axes)


def _plus_constant(walk: _Walk, name: str, left: Symbol, constant: Array) -> Symbol:
    if isinstance(left, Input) and left.is_float and constant.size == 1:
        return replace(left, mask=replace(left.mask, term=left.mask.term + float(constant.item())))
    if isinstance(left, ErrorFunction) and constant.size == 1:
        return replace(left, term=left.term + float(constant.item()))
    ref = walk.plain(left)
    vector = _channel_vector(ref, constant)
    if vector is not None:
        ones = np.ones(ref.tensor.channels, np.float32)
        output = Tensor(name, ref.tensor.channels, ref.tensor.space)
        return walk.add(Scale(output=output, x=ref.tensor, scale=ones, shift=vector), ref.axes)
    embed = walk.producer(ref.tensor)
    shape = constant.shape[-2:]
    if isinstance(embed, Embed) and embed.positions is None and shape == (ref.tensor.space.lanes, ref.tensor.channels):
        positions = np.ascontiguousarray(constant.reshape(shape), dtype=np.float32)
        output = Tensor(name, ref.tensor.channels, ref.tensor.space)
        return walk.add(replace(embed, output=output, positions=positions), "NTC")
    raise NotUnderstood(f"a constant of shape {constant.shape}")


def _product(walk: _Walk, name: str, left: Symbol, right: Symbol) -> Symbol:
    if isinstance(left, np.ndarray):
        left, right = right, left
    if isinstance(right, np.ndarray):
        return _times_constant(walk, name, left, right)
    for x, other in ((left, right), (right, left)):
        if isinstance(x, Ref) and isinstance(other, ErrorFunction) and x.tensor is other.x.tensor:
            return _gelu(walk, name, x, other)
        if isinstance(x, Ref) and isinstance(other, Input) and other.is_float and x.axes == "NTC":
            if other.shape != (*x.shape[:2], 1):
                raise NotUnderstood("a mask that is not one value per token")
            if (other.mask.factor, other.mask.term) != (1.0, 0.0):
                raise NotUnderstood("a mask that was changed")
            return Weighted(walk.plain(x), other.mask)
    raise NotUnderstood("a product of these tensors")


def _times_constant(walk: _Walk, name: str, left: Symbol, constant: Array) -> Symbol:
    if constant.size == 1:
        factor = float(constant.item())
        if isinstance(left, Ref):
            return replace(left, factor=left.factor * factor)
        if isinstance(left, ErrorFunction):
            return replace(left, factor=left.factor * factor, term=left.term * factor)
        if isinstance(left, Scores) and not left.normalized and left.mask is None:
            return replace(left, scale=left.scale * factor)
        if isinstance(left, Input) and left.is_float:
            mask = left.mask
            return replace(left, mask=replace(mask, factor=mask.factor * factor, term=mask.term * factor))
    ref = walk.plain(left)
    vector = _channel_vector(ref, constant)
    if vector is None:
        raise NotUnderstood(f"a constant of shape {constant.shape}")
    zeros = np.zeros(ref.tensor.channels, np.float32)
    output = Tensor(name, ref.tensor.channels, ref.tensor.space)
    return walk.add(Scale(output=output, x=ref.tensor, scale=vector, shift=zeros), ref.axes)


def _gelu(walk: _Walk, name: str, x: Ref, other: ErrorFunction) -> Symbol:
    """x times c (erf(x / sqrt 2) + 1) is 2 c gelu(x)."""
    if abs(other.x.factor - 0.5**0.5) > 1e-6 or abs(other.factor - other.term) > 1e-6 * abs(other.factor):
        raise NotUnderstood("not the form of a GELU")
    result = _activate(walk, name, replace(x, factor=1.0), "gelu")
    return replace(result, factor=2 * other.factor * x.factor)


def _divide(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    del attributes
    left, right = inputs
    if isinstance(right, np.ndarray):
        return _product(walk, name, left, np.asarray(1 / right, dtype=np.float64))
    if isinstance(left, Weighted) and left.summed and isinstance(right, MaskTotal) and left.mask == right.mask:
        tensor = left.x.tensor
        output = Tensor(name, tensor.channels, Space(1, tensor.space.images, tensor.space.images))
        return walk.add(Average(output=output, x=tensor, weights=left.mask), "NC")
    raise NotUnderstood("a quotient of these tensors")


def _activate(walk: _Walk, name: str, ref: Ref, kind: str) -> Ref:
    channels = ref.tensor.channels
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    output = Tensor(name, channels, ref.tensor.space)
    scale = Scale(output=output, x=ref.tensor, scale=ones, shift=zeros, activation=kind)
    return replace(walk.add(scale, ref.axes), heads=ref.heads)


def _norm(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    x = walk.plain(inputs[0])
    gamma, beta, mean, variance = (_constant(value, "statistics").astype(np.float64) for value in inputs[1:5])
    scale = gamma / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    shift = beta - mean * scale
    output = Tensor(name, x.tensor.channels, x.tensor.space)
    norm = Scale(output=output, x=x.tensor, scale=scale.astype(np.float32), shift=shift.astype(np.float32))
    return walk.add(norm, x.axes)


def _layer_norm(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    x = walk.plain(inputs[0])
    if x.axes not in ("NTC", "NC") or attributes.get("axis", -1) not in (-1, len(x.axes) - 1):
        raise NotUnderstood("only over the channels of tokens or rows")
    gamma = _floats(inputs[1], "the scale")
    beta = _floats(inputs[2], "the shift") if len(inputs) > 2 else np.zeros_like(gamma)
    output = Tensor(name, x.tensor.channels, x.tensor.space)
    epsilon = attributes.get("epsilon", 1e-5)
    return walk.add(LayerNorm(output=output, x=x.tensor, gamma=gamma, beta=beta, epsilon=epsilon), x.axes)


def _softmax(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    del walk, name
    scores = inputs[0]
    if not isinstance(scores, Scores) or attributes.get("axis", -1) not in (-1, 3):
        raise NotUnderstood("only over attention scores")
    return replace(scores, normalized=True)


def _reshape(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    del walk, name, attributes
    ref, wanted = inputs[0], _constant(inputs[1], "the shape")
    if isinstance(ref, Ref):
        shape = resolve_shape(ref.shape, wanted)
        if shape == ref.shape:
            return ref
        if ref.axes == "NTC" and len(shape) == 4 and shape[:2] == ref.shape[:2]:
            return replace(ref, axes="NThd", heads=shape[2])
        if ref.axes == "NThd" and shape == (*ref.shape[:2], ref.tensor.channels):
            return replace(ref, axes="NTC", heads=1)
        if ref.axes == "NC11" and shape == ref.shape[:2]:
            return replace(ref, axes="NC")
    raise NotUnderstood(f"to {wanted.tolist()}")


def _flatten(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    del walk, name
    ref = inputs[0]
    if isinstance(ref, Ref) and ref.axes in ("NC11", "NC") and attributes.get("axis", 1) == 1:
        return replace(ref, axes="NC")
    raise NotUnderstood("only behind global pooling")


def _transpose(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    del walk, name
    ref = inputs[0]
    if not isinstance(ref, Ref) or "h" not in ref.axes:
        raise NotUnderstood("only of attention heads")
    return replace(ref, axes="".join(ref.axes[axis] for axis in attributes["perm"]))


def _unsqueeze(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    del walk, name
    if not isinstance(inputs[0], Input):
        raise NotUnderstood("only of masks")
    axes = _constant(inputs[1], "the axes") if len(inputs) > 1 else np.array(attributes["axes"])
    return replace(inputs[0], shape=np.expand_dims(np.empty(inputs[0].shape), tuple(axes.tolist())).shape)


def _cast(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    del walk, name
    if isinstance(inputs[0], Input) and attributes["to"] == onnx.TensorProto.FLOAT:
        return replace(inputs[0], is_float=True)
    raise NotUnderstood("only of integer inputs to float32")


def _gather(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    table, ids = _floats(inputs[0], "the table"), inputs[1]
    if not isinstance(ids, Input) or ids.is_float or len(ids.shape) != 2 or table.ndim != 2 or attributes.get("axis"):
        raise NotUnderstood("only rows of a constant table by integer inputs")
    rows, tokens = ids.shape
    output = Tensor(name, table.shape[1], Space(rows, tokens, tokens))
    return walk.add(Embed(output=output, ids=ids.mask.name, table=table), "NTC")


def _reduce_mean(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    x = walk.plain(inputs[0])
    axes = [axis % len(x.axes) for axis in attributes.get("axes", range(2, 4))]
    if x.axes != "NCHW" or sorted(axes) != [2, 3]:
        raise NotUnderstood("only over the pixels of an image")
    output = Tensor(name, x.tensor.channels, Space(1, x.tensor.space.images, x.tensor.space.images))
    return walk.add(Average(output=output, x=x.tensor), "NC11" if attributes.get("keepdims", 1) else "NC")


def _reduce_sum(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    del walk, name
    what = inputs[0]
    if _constant(inputs[1], "the axes").tolist() == [1] and not attributes.get("keepdims", 1):
        if isinstance(what, Weighted):
            return replace(what, summed=True)
        if isinstance(what, Input) and what.is_float:
            return MaskTotal(what.mask)
    raise NotUnderstood("only masked sums over tokens")


def _max_pool(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    x = walk.plain(inputs[0])
    window, space = _window(attributes, tuple(attributes["kernel_shape"]), x)
    output = Tensor(name, x.tensor.channels, space)
    return walk.add(MaxPool(output=output, x=x.tensor, window=window), "NCHW")


def _erf(walk: _Walk, name: str, attributes: dict[str, Any], inputs: list[Symbol]) -> Symbol:
    del walk, name, attributes
    return ErrorFunction(inputs[0]) if isinstance(inputs[0], Ref) else _fail("of no tensor")


def _activation(kind: str) -> Rule:
    return lambda walk, name, _, inputs: _activate(walk, name, walk.plain(inputs[0]), kind)


RULES: dict[str, Rule] = {
    "Add": lambda walk, name, _, inputs: _sum(walk, name, inputs[0], inputs[1], 1.0),
    "BatchNormalization": _norm,
    "Cast": _cast,
    "Conv": _conv,
    "Div": _divide,
    "Erf": _erf,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _reduce_mean,
    "Identity": lambda *arguments: arguments[3][0],
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": lambda walk, name, _, inputs: _product(walk, name, inputs[0], inputs[1]),
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "Relu": _activation("relu"),
    "Reshape": _reshape,
    "Sigmoid": _activation("sigmoid"),
    "Softmax": _softmax,
    "Sub": lambda walk, name, _, inputs: _sum(walk, name, inputs[0], inputs[1], -1.0),
    "Tanh": _activation("tanh"),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Operator -> (walk, name of the output, attributes, inputs) -> what the output is."""

KNOWN_OPERATORS = {"Constant", "Shape", *FOLD, *RULES}
