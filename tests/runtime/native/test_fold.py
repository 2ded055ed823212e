"""Nodes whose inputs are all known give what ONNX Runtime gives."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from runtime.engines.native.fold import FOLD
from runtime.graph import OPSET
from tests.engines import onnx_session


@pytest.mark.parametrize(("axis", "shape"), [(0, (4, 5)), (1, (2, 7)), (-1, (1, 3)), (-2, (6, 1))])
def test_elements_are_gathered_as_onnx_runtime_gathers_them(axis: int, shape: tuple[int, ...]) -> None:
    """Also where the indices end before the data does, and where they count from the end."""
    data = np.arange(15, dtype=np.int64).reshape(3, 5)
    size = data.shape[axis]
    indices = np.random.default_rng(0).integers(-size, size, size=shape)
    node = helper.make_node("GatherElements", ["data", "indices"], ["out"], axis=axis)
    tensors = [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in ("data", "indices", "out")]
    graph = helper.make_graph([node], "one", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    session = onnx_session(model)
    [expected] = session.run(None, {"data": data, "indices": indices})
    np.testing.assert_array_equal(FOLD["GatherElements"]({"axis": axis}, [data, indices]), expected)
