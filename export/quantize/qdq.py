"""The writer of QDQ graphs: opset 17 with QuantizeLinear and DequantizeLinear around what is to be computed in int8.

Quantized are Conv, Gemm and MatMul with a constant weight. Weights: int8 from -127 to 127, symmetric (zero point 0, so
a zero stays exactly zero), one scale for each output channel. Activations: uint8, one scale and zero point for a
tensor. Biases of Conv and Gemm: int32 with scale = scale of the input * scale of the weight.

Where the pairs stand is what engines fuse. A convolution's output (behind its Relu, if that alone reads it) is
quantized: engines have no integer convolution with a float output. The outputs of Gemm and MatMul stay float, which
they do have, and which costs no accuracy: so logits, and all of a transformer but its linear layers, are float. An Add
of two quantized tensors whose sum is quantized too reads them as such.

A table of embeddings is stored in int8 too, one scale for each column, and dequantized behind its lookup (Gather): that
computes nothing in int8, but the table is often most of a text encoder's bytes.

The int8 tensor keeps the weight's name; what it is in float is called `NAME.dequantized`.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.graphs import sparse_constant
from export.quantize.ranges import Range
from runtime.graph import constant_arrays, sparse_constants

SPARSE_BELOW = 1 / 9
"""Density under which the sparse form is smaller in int8: 9 bytes for each kept weight against 1 for each."""
LARGEST = 127
"""Of an int8 weight, positive or negative."""
LARGEST_BIAS = 2**30
"""Of an int32 bias: half of what int32 holds is left to the sum of products."""


@dataclass(frozen=True)
class Layer:
    """A node that can be quantized, and its tensors by name."""

    operator: str
    weight: str
    axis: int
    """Axis of the weight that counts output channels."""
    input: str
    bias: str | None
    output: str
    """The node's output that is quantized, behind a Relu if there is one; of Gemm and MatMul, what it writes."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Activations whose ranges must be known."""
        found = {"Conv": (self.input, self.output), "Gather": ()}
        return found.get(self.operator, (self.input,))


@dataclass(frozen=True)
class QuantizedWeight:
    """int8 values in the shape of the weight, and float32 scales [output channels]."""

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


def quantizable(model: onnx.ModelProto) -> list[Layer]:
    """The layers of a checked fp32 graph that can be quantized, in order."""
    weights = constant_arrays(model)
    layers = []
    for node in model.graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type not in ("Conv", "Gemm", "MatMul", "Gather"):
            continue
        data, weight = node.input[:2] if node.op_type != "Gather" else reversed(node.input[:2])
        if weight not in weights or weights[weight].ndim < 2 or data in weights:
            continue
        if weights[weight].dtype != np.float32 or len(_readers(model, weight)) > 1:
            continue
        if node.op_type == "Gather":
            if weights[weight].ndim != 2 or attributes.get("axis", 0) != 0:
                continue
            axis = 1
        elif node.op_type == "Gemm":
            if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1 or attributes.get("transA", 0):
                continue
            axis = 0 if attributes.get("transB", 0) else 1
        elif node.op_type == "MatMul":
            if weights[weight].ndim != 2:
                continue
            axis = 1
        else:
            axis = 0
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        if bias is not None and (weights.get(bias, np.zeros(0)).ndim != 1 or len(_readers(model, bias)) > 1):
            continue
        output = _behind_relu(model, node.output[0]) if node.op_type == "Conv" else node.output[0]
        layers.append(Layer(node.op_type, weight, axis, data, bias, output))
    return layers


def quantize(model: onnx.ModelProto, ranges: Mapping[str, Range], *, keep: Set[str] = frozenset()) -> onnx.ModelProto:
    """Return the QDQ form of an fp32 graph; `keep` names the weights of layers that stay fp32.

    `ranges` holds those of the tensors of all layers that are quantized.
    """
    layers = [layer for layer in quantizable(model) if layer.weight not in keep]
    arrays = constant_arrays(model)
    listed = {name: numpy_helper.to_array(sparse.indices) for name, sparse in sparse_constants(model)}
    tables = {layer.output: layer for layer in layers if layer.operator == "Gather"}
    inputs = {layer.input for layer in layers if layer.operator != "Gather"}
    outputs = {layer.output for layer in layers if layer.operator == "Conv"}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    replaced = {name for layer in layers for name in (layer.weight, layer.bias) if name is not None}
    _remove_constants(graph, replaced)
    constants: list[onnx.NodeProto] = []
    reads: dict[tuple[str, str], str] = {}  # (weight of the reader, tensor) -> what it reads instead
    for layer in layers:
        scale = np.float32(1) if layer.operator == "Gather" else ranges[layer.input].scale
        bias = None if layer.bias is None else arrays[layer.bias]
        weight = quantize_weight(arrays[layer.weight], layer.axis, scale, bias)
        kept = _mask(listed[layer.weight], weight.values) if layer.weight in listed else None
        constants += _store_weight(graph, layer.weight, weight, kept)
        if layer.operator == "Gather":
            continue
        constants.append(_dequantize(layer.weight, layer.weight, f"{layer.weight}.dequantized", axis=layer.axis))
        reads[layer.weight, layer.weight] = f"{layer.weight}.dequantized"
        if layer.bias is not None and bias is not None:
            constants.append(_bias_node(graph, layer.bias, bias, scale, weight.scales))
            reads[layer.weight, layer.bias] = f"{layer.bias}.dequantized"
        if layer.input not in outputs:
            reads[layer.weight, layer.input] = f"{layer.input}.dequantized"
    adds = _quantized_adds(model, inputs | outputs)
    nodes = constants
    for name in [value.name for value in graph.input if value.name in inputs]:
        nodes += _pair(graph, name, ranges[name], name, f"{name}.dequantized")
    for node in list(graph.node):
        weight_name = node.input[1] if len(node.input) > 1 else ""
        for index, name in enumerate(node.input):
            if node.output[0] in adds and name in inputs - outputs:
                node.input[index] = f"{name}.dequantized"
            else:
                node.input[index] = reads.get((weight_name, name), name)
        produced = list(node.output)
        for index, name in enumerate(produced):
            if name in outputs:
                node.output[index] = f"{name}.float"
            elif name in tables:
                node.output[index] = f"{tables[name].weight}.rows"
        nodes.append(node)
        nodes += [
            _dequantize(tables[name].weight, f"{tables[name].weight}.rows", name, axis=-1)
            for name in produced
            if name in tables
        ]
        for name in produced:
            if name in outputs:
                nodes += _pair(graph, name, ranges[name], f"{name}.float", name)
            elif name in inputs:
                nodes += _pair(graph, name, ranges[name], name, f"{name}.dequantized")
    nodes = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def quantize_weight(
    weight: NDArray[np.generic], axis: int, input_scale: np.float32, bias: NDArray[np.generic] | None = None
) -> QuantizedWeight:
    """Symmetric int8 weights with one scale for each index of `axis`: the largest |value| becomes 127.

    A scale is raised where the bias, in steps of input scale * weight scale, would not leave int32 room.
    """
    moved = np.moveaxis(weight.astype(np.float32), axis, 0)
    scales = np.abs(moved).reshape(len(moved), -1).max(axis=1) / np.float32(LARGEST)
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (float(input_scale) * LARGEST_BIAS))
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    steps = np.rint(moved / scales.reshape(-1, *[1] * (moved.ndim - 1)))
    values = np.moveaxis(np.clip(steps, -LARGEST, LARGEST).astype(np.int8), 0, axis)
    return QuantizedWeight(np.ascontiguousarray(values), scales)


def quantize_bias(
    bias: NDArray[np.generic], input_scale: np.float32, scales: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """int32 bias and its scales, both [output channels]."""
    steps = (input_scale * scales).astype(np.float32)
    return np.rint(bias.astype(np.float64) / steps).astype(np.int32), steps


def _behind_relu(model: onnx.ModelProto, name: str) -> str:
    """The output of the Relu that alone reads a tensor; else the tensor."""
    readers = _readers(model, name)
    if len(readers) == 1 and readers[0] is not None and readers[0].op_type == "Relu":
        return str(readers[0].output[0])
    return name


def _readers(model: onnx.ModelProto, name: str) -> list[onnx.NodeProto | None]:
    """Nodes that read a tensor; None stands for a graph output."""
    nodes: list[onnx.NodeProto | None] = [node for node in model.graph.node if name in node.input]
    return nodes + [None for output in model.graph.output if output.name == name]


def _quantized_adds(model: onnx.ModelProto, quantized: Set[str]) -> set[str]:
    """Outputs of the Adds that read two quantized tensors and whose sum is quantized, behind a Relu or not."""
    return {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Add" and set(node.input) <= quantized
        and {node.output[0], _behind_relu(model, node.output[0])} & quantized
    }  # fmt: skip


def _remove_constants(graph: onnx.GraphProto, names: Set[str]) -> None:
    for tensor in [tensor for tensor in graph.initializer if tensor.name in names]:
        graph.initializer.remove(tensor)
    for node in [node for node in graph.node if node.op_type == "Constant" and node.output[0] in names]:
        graph.node.remove(node)


def _mask(indices: NDArray[np.generic], values: NDArray[np.int8]) -> NDArray[np.bool_]:
    mask = np.zeros(values.size, dtype=np.bool_)
    mask[indices] = True
    return mask.reshape(values.shape)


def _store_weight(
    graph: onnx.GraphProto, name: str, weight: QuantizedWeight, kept: NDArray[np.bool_] | None
) -> Iterator[onnx.NodeProto]:
    """Store a weight, its scales and zero points; yield its node if it is sparse, `kept` being what its mask keeps."""
    if kept is not None and kept.mean() < SPARSE_BELOW:
        yield sparse_constant(name, weight.values, kept)
    else:
        _add(graph, name, weight.values)
    _add(graph, f"{name}.scale", weight.scales)
    _add(graph, f"{name}.zero_point", np.zeros(len(weight.scales), dtype=np.int8))


def _bias_node(
    graph: onnx.GraphProto, name: str, bias: NDArray[np.generic], scale: np.float32, scales: NDArray[np.float32]
) -> onnx.NodeProto:
    values, steps = quantize_bias(bias, scale, scales)
    _add(graph, name, values)
    _add(graph, f"{name}.scale", steps)
    _add(graph, f"{name}.zero_point", np.zeros(len(steps), dtype=np.int32))
    return _dequantize(name, name, f"{name}.dequantized", axis=0)


def _pair(graph: onnx.GraphProto, name: str, chosen: Range, source: str, target: str) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear from tensor `source` to `target`; their constants are called by `name`."""
    _add(graph, f"{name}.scale", np.array(chosen.scale, dtype=np.float32))
    _add(graph, f"{name}.zero_point", np.array(chosen.zero_point, dtype=np.uint8))
    inputs = [source, f"{name}.scale", f"{name}.zero_point"]
    quantized = f"{name}.quantized"
    return [
        helper.make_node("QuantizeLinear", inputs, [quantized], name=f"{name}.quantize"),
        _dequantize(name, quantized, target),
    ]


def _dequantize(name: str, source: str, target: str, axis: int | None = None) -> onnx.NodeProto:
    inputs = [source, f"{name}.scale", f"{name}.zero_point"]
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    node: onnx.NodeProto = helper.make_node(
        "DequantizeLinear", inputs, [target], name=f"{name}.dequantize", **attributes
    )
    return node


def _add(graph: onnx.GraphProto, name: str, array: NDArray[np.generic]) -> None:
    graph.initializer.append(numpy_helper.from_array(array, name))


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
