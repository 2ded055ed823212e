"""Multiply-adds counted from graphs are those that PyTorch counted at export."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.artifact import Artifact
from runtime.graph import load_graph
from runtime.macs import origins, weight_uses

MODELS = Path(__file__).parents[2] / "models"


@pytest.mark.parametrize(("name", "tokens"), [("fashion-mnist", 1), ("newsgroups", 256)])
def test_layers_add_up_to_the_stages(name: str, tokens: int) -> None:
    artifact = Artifact.open(MODELS / name)
    for stage in artifact.manifest.stages:
        uses = weight_uses(load_graph(artifact.path(stage.file)), tokens=tokens)
        layers = [layer for layer in artifact.manifest.sparsity.layers if layer.stage == stage.file]
        assert sum(uses[layer.name] * layer.weights for layer in layers) == stage.dense_macs
        assert sum(uses[layer.name] * layer.kept for layer in layers) == stage.effective_macs


def _model(nodes: list[onnx.NodeProto], **constants: NDArray[np.generic]) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6, 10, 10]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"]),
    ]
    values = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, [helper.make_tensor_value_info("y", 1, None)], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_each_kind_of_use() -> None:
    floats = np.float32
    model = _model(
        [
            helper.make_node("Conv", ["x", "grouped"], ["c"], group=2, strides=[2, 2]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"]),
            helper.make_node("Conv", ["x", "w"], ["d"]),
            helper.make_node("Gather", ["table", "ids"], ["e"]),
            helper.make_node("Transpose", ["linear"], ["turned"], perm=[1, 0]),
            helper.make_node("MatMul", ["e", "turned"], ["once"]),
            helper.make_node("MatMul", ["once", "square"], ["twice"]),
            helper.make_node("MatMul", ["twice", "square"], ["y"]),
        ],
        grouped=np.ones((4, 3, 2, 2), dtype=floats),
        q=np.ones((5, 6, 1, 1), dtype=np.int8),
        scale=np.array(0.5, dtype=floats),
        zero=np.array(0, dtype=np.int8),
        table=np.ones((9, 8), dtype=floats),
        linear=np.ones((3, 8), dtype=floats),
        square=np.ones((3, 3), dtype=floats),
    )
    uses = weight_uses(model, tokens=7)
    assert uses["grouped"] == 5 * 5
    assert uses["q"] == uses["w"] == 10 * 10
    assert uses["table"] == 0
    assert uses["linear"] == uses["turned"] == 7
    assert uses["square"] == 2 * 7
    assert origins(model)["w"] == "q"
    assert origins(model)["turned"] == "linear"
    assert "once" not in origins(model)


def test_a_weight_whose_use_the_shapes_do_not_tell_has_no_count() -> None:
    model = _model(
        [
            helper.make_node("NonZero", ["ids"], ["places"]),
            helper.make_node("Cast", ["places"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["floats"], ["rows"], perm=[1, 0]),
            helper.make_node("MatMul", ["rows", "weight"], ["y"]),
        ],
        weight=np.ones((2, 3), dtype=np.float32),
    )
    assert "weight" not in weight_uses(model)
