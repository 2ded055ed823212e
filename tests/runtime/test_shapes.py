"""Inferred shapes are those that ONNX Runtime computes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.graph import load_graph
from runtime.shapes import MOST_VALUES, tensor_shapes

MODELS = Path(__file__).parents[2] / "models"


def computed_shapes(model: onnx.ModelProto, tokens: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs of all nodes, from a run over one row."""
    names = [name for node in model.graph.node for name in node.output if node.op_type != "Constant"]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {}
    for spec in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 if axis == 0 else tokens for axis, size in enumerate(spec.shape)]
        feeds[spec.name] = np.ones(shape, dtype=np.int64 if spec.type == "tensor(int64)" else np.float32)
    return dict(zip(names, (np.shape(array) for array in session.run(names, feeds)), strict=True))


@pytest.mark.parametrize("path", sorted(MODELS.glob("*/*.onnx")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_shape_of_the_shipped_networks_is_found(path: Path) -> None:
    found = tensor_shapes(load_graph(path), tokens=64)
    computed = computed_shapes(load_graph(path), 64)
    assert len(computed) > 5
    assert {name: found[name] for name in computed} == computed


def _graph(nodes: list[onnx.NodeProto], constants: dict[str, list[int]]) -> onnx.ModelProto:
    values = [numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in constants.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, "tokens"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_no_shape_follows_for_has_none() -> None:
    """Neither from the values of an input, nor from a graph that fails; all else is found."""
    nodes = [
        helper.make_node("Cast", ["x"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["sizes"], ["size"], axes=[0, 1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["size", "zero"], ["target"]),
        helper.make_node("ConstantOfShape", ["target"], ["unknown"]),
        helper.make_node("Div", ["one", "zero"], ["impossible"]),
        helper.make_node("ConstantOfShape", ["impossible"], ["worse"]),
        helper.make_node("Transpose", ["x"], ["y"], perm=[2, 1, 0]),
    ]
    found = tensor_shapes(_graph(nodes, {"zero": [0], "one": [1]}), tokens=7)
    assert found["y"] == (7, 4, 1)
    assert found["target"] == (1,)
    assert not {"unknown", "worse"} & set(found)


def test_a_huge_constant_is_not_computed() -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["huge"], ["filled"]),
        helper.make_node("ConstantOfShape", ["small"], ["few"]),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    found = tensor_shapes(_graph(nodes, {"huge": [2**40, 2**20], "small": [MOST_VALUES]}))
    assert found["filled"] == (2**40, 2**20)
    assert found["few"] == (MOST_VALUES,)
