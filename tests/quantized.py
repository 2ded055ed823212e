"""Small graphs and their QDQ form, with the ranges that some inputs give."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.graphs import sparse_constant
from export.quantize.qdq import quantizable, quantize
from export.quantize.ranges import Range
from runtime.graph import check_graph
from tests.engines import onnx_session

Array = NDArray[Any]


def graph_of(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Array],
    sizes: tuple[int, ...],
    output: str,
    shape: tuple[int, ...],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *sizes])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", *shape])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model


def weight_of(generator: np.random.Generator, shape: tuple[int, ...], density: float) -> NDArray[np.float32]:
    weight = generator.standard_normal(shape).astype(np.float32)
    weight[generator.random(shape) >= density] = 0
    return weight


def residual_network(seed: int = 0) -> onnx.ModelProto:
    """Conv, Relu, Conv, Add of the shortcut, Relu, mean, Gemm; the second weight is sparse in the file."""
    generator = np.random.default_rng(seed)
    second = weight_of(generator, (6, 6, 3, 3), 0.08)
    padding: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        sparse_constant("second.weight", second, second != 0),
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["a"], **padding),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second.weight"], ["c"], **padding),
        helper.make_node("Add", ["c", "b"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Conv", ["e", "third.weight"], ["f"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["f"], ["g"]),
        helper.make_node("Flatten", ["g"], ["h"]),
        helper.make_node("Gemm", ["h", "last.weight", "last.bias"], ["logits"], transB=1),
    ]
    constants = {
        "first.weight": weight_of(generator, (6, 3, 3, 3), 0.5),
        "first.bias": generator.standard_normal(6).astype(np.float32),
        "third.weight": weight_of(generator, (6, 6, 1, 1), 0.5),
        "last.weight": weight_of(generator, (4, 6), 1.0),
        "last.bias": generator.standard_normal(4).astype(np.float32),
    }
    return graph_of(nodes, constants, (3, 8, 8), "logits", (4,))


def encoder(seed: int = 0) -> onnx.ModelProto:
    """MatMul, Add, Relu, MatMul: linear layers of texts, the bias first in its Add, as PyTorch exports it."""
    generator = np.random.default_rng(seed)
    nodes = [
        helper.make_node("MatMul", ["x", "up.weight"], ["a"]),
        helper.make_node("Add", ["up.bias", "a"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "down.weight"], ["d"]),
        helper.make_node("Add", ["d", "x"], ["e"]),
    ]
    constants = {
        "up.weight": weight_of(generator, (5, 12), 0.4),
        "up.bias": generator.standard_normal(12).astype(np.float32),
        "down.weight": weight_of(generator, (12, 5), 0.4),
    }
    return graph_of(nodes, constants, (7, 5), "e", (7, 5))


def values_of(model: onnx.ModelProto, x: Array) -> dict[str, Array]:
    """All float tensors of a graph, computed by ONNX Runtime."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    del wider.graph.output[:]
    names = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output]
    wider.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return dict(zip(names, onnx_session(wider).run(names, {"x": x}), strict=True)) | {"x": x}


def quantized(model: onnx.ModelProto, x: Array, keep: frozenset[str] = frozenset()) -> onnx.ModelProto:
    """The QDQ form with the ranges that `x` gives."""
    values = values_of(model, x)
    tensors = {name for layer in quantizable(model) for name in layer.tensors}
    ranges = {name: Range(float(values[name].min()), float(values[name].max())) for name in tensors}
    result = quantize(model, ranges, keep=keep)
    check_graph(result, "quantized")
    return result


def inputs(model: onnx.ModelProto, rows: int = 4) -> Array:
    sizes = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim][1:]
    return np.random.default_rng(7).standard_normal((rows, *sizes)).astype(np.float32)


def lookup(seed: int = 0) -> onnx.ModelProto:
    """Rows of a table by ids that Cast makes of the input, then a linear layer."""
    generator = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Abs", ["x"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weight"], ["y"]),
    ]
    constants = {"table": weight_of(generator, (10, 6), 0.5), "weight": weight_of(generator, (6, 4), 0.5)}
    return graph_of(nodes, constants, (7,), "y", (7, 4))


def norm_network(seed: int = 0) -> onnx.ModelProto:
    """BatchNormalization, Relu, Conv: the beginning of a head of a pre-activation network."""
    generator = np.random.default_rng(seed)
    nodes = [
        helper.make_node("BatchNormalization", ["x", "gamma", "beta", "mean", "variance"], ["a"], epsilon=1e-3),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "weight"], ["c"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
    ]
    constants: dict[str, Array] = {
        name: generator.uniform(0.5, 1.5, 3).astype(np.float32) for name in ("gamma", "beta", "mean", "variance")
    }
    constants["weight"] = weight_of(generator, (6, 3, 3, 3), 0.3)
    return graph_of(nodes, constants, (3, 8, 8), "d", (6, 4, 4))
