"""The integer form computes what the QDQ graph computes, and is made of standard operators on integers only."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from runtime.engines import engine_class
from runtime.engines.integer import WEIGHTED, integer_form
from runtime.errors import UnsupportedModel
from runtime.graph import check_graph, stored_weights
from tests.engines import needs_deepsparse, onnx_session
from tests.quantized import encoder, inputs, lookup, norm_network, quantized, residual_network

Network = Callable[[], onnx.ModelProto]


@pytest.mark.parametrize("network", [residual_network, encoder, norm_network, lookup])
def test_it_computes_what_the_qdq_graph_computes(network: Network) -> None:
    model = quantized(network(), inputs(network()))
    x = inputs(network(), rows=32)
    [expected] = onnx_session(model).run(None, {"x": x})
    [found] = onnx_session(integer_form(model)).run(None, {"x": x})
    step = np.abs(expected).max() / 255
    assert np.abs(found - expected).max() <= 1.01 * step
    assert np.abs(found - expected).mean() <= 0.02 * step
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize("network", [residual_network, encoder, norm_network, lookup])
def test_layers_are_on_integers_and_the_graph_is_safe(network: Network) -> None:
    model = quantized(network(), inputs(network()))
    before = model.SerializeToString(deterministic=True)
    form = integer_form(model)
    assert model.SerializeToString(deterministic=True) == before
    check_graph(form, "integer form")
    operators = [node.op_type for node in form.graph.node]
    assert not {*WEIGHTED, "BatchNormalization"} & set(operators)
    assert sum(operator in WEIGHTED.values() for operator in operators) == sum(
        node.op_type in WEIGHTED for node in model.graph.node
    )
    assert all(entry.domain == "" for entry in form.opset_import)
    assert [value.name for value in form.graph.output] == [value.name for value in model.graph.output]


@needs_deepsparse
@pytest.mark.parametrize(("network", "share"), [(residual_network, 1), (encoder, 1), (norm_network, 1), (lookup, 0.5)])
def test_deepsparse_accelerates_it_and_computes_the_same(network: Network, share: float, tmp_path: Path) -> None:
    """All but what makes ids of floats and looks them up."""
    engine_class("deepsparse")  # sets what must be set before its import
    import deepsparse

    model = quantized(network(), inputs(network()))
    x = inputs(network())
    onnx.save(integer_form(model), str(tmp_path / "form.onnx"))
    engine = deepsparse.MultiModelEngine(
        str(tmp_path / "form.onnx"), len(x), deepsparse.Context(num_cores=1, num_streams=1), input_shapes=[[*x.shape]]
    )
    [expected] = onnx_session(model).run(None, {"x": x})
    [found] = engine.run([x])
    assert np.abs(found - expected).max() <= 1.01 * np.abs(expected).max() / 255
    assert engine.fraction_of_supported_ops >= share


def test_a_sparse_weight_stays_sparse() -> None:
    model = quantized(residual_network(), inputs(residual_network()))
    assert stored_weights(integer_form(model))["second.weight"] == stored_weights(model)["second.weight"]


def test_layers_in_fp32_stay_as_they_are() -> None:
    model = quantized(residual_network(), inputs(residual_network()), keep=frozenset({"second.weight"}))
    operators = [node.op_type for node in integer_form(model).graph.node]
    assert operators.count("Conv") == 1
    x = inputs(residual_network())
    [expected] = onnx_session(model).run(None, {"x": x})
    [found] = onnx_session(integer_form(model)).run(None, {"x": x})
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()


def test_a_weight_that_is_not_symmetric_is_refused() -> None:
    model = quantized(residual_network(), inputs(residual_network()))
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == "first.weight.zero_point"]
    tensor.CopyFrom(numpy_helper.from_array(np.ones(6, dtype=np.int8), tensor.name))
    with pytest.raises(UnsupportedModel, match="not symmetric"):
        integer_form(model)
