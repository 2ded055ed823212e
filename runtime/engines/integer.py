"""An int8 graph in QDQ form, rewritten at load with the integer operators of ONNX: the form that DeepSparse is fast at.

DeepSparse runs QDQ graphs slowly, and QLinearConv fast only where a weight has one scale for all output channels. What
it accelerates with a scale for each channel is what the QDQ form means, written out in standard operators:

    ConvInteger | MatMulInteger (int32, exact)  ->  Add bias (int32)  ->  Cast  ->  Mul input scale * weight scales

The result is float, as in the QDQ graph, and is quantized where that one quantizes it. BatchNormalization, which
crashes DeepSparse's compiler, and so the process, where its result is quantized, becomes Mul and Add.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.errors import UnsupportedModel
from runtime.graph import constant_arrays, without_unused

WEIGHTED = {"Conv": "ConvInteger", "Gemm": "MatMulInteger", "MatMul": "MatMulInteger"}
"""Operator on dequantized tensors -> the operator on integers that replaces it."""


def integer_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the integer form of a checked QDQ graph; names of inputs, outputs and weights stay.

    Raises UnsupportedModel where a dequantized tensor is used in a way that the exporter does not write.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = constant_arrays(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    added: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        sources = [producers.get(name) for name in node.input[:2]]
        if node.op_type in WEIGHTED and all(source and source.op_type == "DequantizeLinear" for source in sources):
            nodes += _integer_nodes(node, producers, constants, added)
        elif node.op_type == "BatchNormalization":
            nodes += _norm_nodes(node, constants, added)
        else:
            nodes.append(node)
    result.graph.initializer.extend(added)
    result.graph.node.extend(nodes)
    return without_unused(result)


def _integer_nodes(
    node: onnx.NodeProto,
    producers: dict[str, onnx.NodeProto],
    constants: dict[str, NDArray[np.generic]],
    added: list[onnx.TensorProto],
) -> Iterator[onnx.NodeProto]:
    """The nodes that replace a Conv, Gemm or MatMul of dequantized tensors; its constants are appended to `added`."""
    output = node.output[0]
    data, weight = (producers[name] for name in node.input[:2])
    values, scales, zeros = (constants.get(name) for name in weight.input)
    step = constants.get(data.input[1])
    if values is None or scales is None or zeros is None or step is None:
        raise UnsupportedModel(f"{node.op_type} {output!r} reads a weight or a scale that is no constant.")
    if values.dtype != np.int8 or zeros.any():
        raise UnsupportedModel(f"The weight of {node.op_type} {output!r} is not symmetric int8.")
    axis = next((attribute.i for attribute in weight.attribute if attribute.name == "axis"), 1)
    attributes = {attribute.name: attribute for attribute in node.attribute}
    transposed = node.op_type == "Gemm" and "transB" in attributes and attributes["transB"].i == 1
    channel = 0 if node.op_type == "Conv" or transposed else 1
    if axis % values.ndim != channel or scales.shape != (values.shape[channel],):
        raise UnsupportedModel(f"The weight of {node.op_type} {output!r} has no scale for each output channel.")

    def constant(name: str, array: NDArray[np.generic]) -> str:
        added.append(numpy_helper.from_array(np.array(array, order="C"), f"{output}.{name}"))
        return f"{output}.{name}"

    # The output's channels are its second axis in a convolution, its last in a product.
    shape = (1, -1, *[1] * (values.ndim - 2)) if node.op_type == "Conv" else (-1,)
    weight_name = constant("weight", values.T) if transposed else weight.input[0]
    zero = constant("zero", np.zeros((), dtype=np.int8))
    product = helper.make_node(
        WEIGHTED[node.op_type], [data.input[0], weight_name, data.input[2], zero], [f"{output}.sums"]
    )
    if node.op_type == "Conv":
        product.attribute.extend(node.attribute)
    yield product
    sums = f"{output}.sums"
    if len(node.input) > 2 and node.input[2]:
        bias = producers.get(node.input[2])
        steps = None if bias is None else constants.get(bias.input[0])
        if steps is None or steps.dtype != np.int32:
            raise UnsupportedModel(f"The bias of {node.op_type} {output!r} is not int32.")
        yield helper.make_node("Add", [sums, constant("bias", steps.reshape(shape))], [f"{output}.biased"])
        sums = f"{output}.biased"
    yield helper.make_node("Cast", [sums], [f"{output}.cast"], to=TensorProto.FLOAT)
    scale = step.astype(np.float32) * scales.astype(np.float32)
    yield helper.make_node("Mul", [f"{output}.cast", constant("scale", scale.reshape(shape))], [output])


def _norm_nodes(
    node: onnx.NodeProto, constants: dict[str, NDArray[np.generic]], added: list[onnx.TensorProto]
) -> Iterator[onnx.NodeProto]:
    """Mul and Add that compute the BatchNormalization of images [B, C, h, w]; constants are appended to `added`."""
    output = node.output[0]
    if any(name not in constants for name in node.input[1:]):
        raise UnsupportedModel(f"BatchNormalization {output!r} has statistics that are no constants.")
    gamma, beta, mean, variance = (constants[name].astype(np.float64) for name in node.input[1:])
    epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
    factor = gamma / np.sqrt(variance + epsilon)
    for name, array in (("factor", factor), ("shift", beta - mean * factor)):
        added.append(numpy_helper.from_array(array.astype(np.float32).reshape(1, -1, 1, 1), f"{output}.{name}"))
    yield helper.make_node("Mul", [node.input[0], f"{output}.factor"], [f"{output}.scaled"])
    yield helper.make_node("Add", [f"{output}.scaled", f"{output}.shift"], [output])
