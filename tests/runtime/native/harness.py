"""Runs a bare ONNX graph on the native engine and on ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.engines.native.compile import library
from runtime.engines.native.execute import Executor
from runtime.engines.native.fuse import fuse
from runtime.engines.native.graph import understand
from runtime.engines.native.machine import InstructionSet
from runtime.engines.native.plan import Plan
from runtime.engines.native.planning import plan_network
from runtime.graph import OPSET, constant_arrays

Array = NDArray[Any]


def graph_of(
    nodes: list[Any], constants: dict[str, Array], inputs: dict[str, tuple[int, ...]], output: str
) -> onnx.ModelProto:
    """A graph with float inputs of fixed shapes."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def plan_of(
    model: onnx.ModelProto, inputs: dict[str, tuple[int, ...]], *, threads: int, machine: InstructionSet
) -> Plan:
    """Plan a graph without generating code."""
    network = fuse(understand(model, constant_arrays(model), inputs, "graph"))
    return plan_network(network, threads=threads, machine=machine)


def run_native(
    model: onnx.ModelProto, tensors: dict[str, Array], *, threads: int = 1, instruction_set: str
) -> NDArray[np.float32]:
    """Its only output, computed by the native engine."""
    kernels = library(instruction_set)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    plan = plan_of(model, shapes, threads=threads, machine=kernels.instruction_set)
    executor = Executor(kernels, {"graph": (plan, None)}, threads)
    try:
        (output,) = executor.run("graph", dict(tensors)).values()
    finally:
        executor.close()
    return output


def run_reference(model: onnx.ModelProto, tensors: dict[str, Array]) -> NDArray[np.float32]:
    """Its only output, computed by ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, tensors)[0]
    return output


def require_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Raise AssertionError unless both are the same up to the rounding of sums in another order."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(expected).max(initial=0))))
