"""QDQ graphs: where the pairs stand, exact integers, zeros that stay, and the sums of an independent emulation."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.quantize.qdq import quantizable, quantize_bias, quantize_weight
from export.quantize.ranges import Range
from runtime.engines.integer import integer_form
from runtime.graph import constant_arrays, stored_weights
from tests.engines import onnx_session
from tests.quantized import Array, encoder, inputs, lookup, quantized, residual_network, values_of, weight_of


def test_all_layers_are_found_with_their_channels() -> None:
    found = [(layer.operator, layer.weight, layer.axis, layer.output) for layer in quantizable(residual_network())]
    assert found == [
        ("Conv", "first.weight", 0, "b"),
        ("Conv", "second.weight", 0, "c"),
        ("Conv", "third.weight", 0, "f"),
        ("Gemm", "last.weight", 0, "logits"),
    ]
    assert [(layer.operator, layer.axis) for layer in quantizable(encoder())] == [("MatMul", 1)] * 2


def test_products_of_activations_and_shared_weights_are_left_alone() -> None:
    model = encoder()
    model.graph.node.append(helper.make_node("MatMul", ["x", "up.weight"], ["again"]))
    model.graph.node.append(helper.make_node("MatMul", ["again", "a"], ["product"]))
    assert [layer.weight for layer in quantizable(model)] == ["down.weight"]


@pytest.mark.parametrize("network", [residual_network, encoder, lookup])
def test_weights_are_symmetric_per_channel_and_zeros_stay(network: Callable[[], onnx.ModelProto]) -> None:
    model = network()
    before: dict[str, Array] = constant_arrays(model)
    result = quantized(model, inputs(model))
    after: dict[str, Array] = constant_arrays(result)
    for layer in quantizable(model):
        weight, scales = after[layer.weight], after[f"{layer.weight}.scale"]
        assert weight.dtype == np.int8
        assert scales.dtype == np.float32
        assert scales.shape == (weight.shape[layer.axis],)
        assert weight.min() >= -127
        assert not weight[before[layer.weight] == 0].any()
        assert not after[f"{layer.weight}.zero_point"].any()
        channels = np.moveaxis(weight, layer.axis, 0).reshape(len(scales), -1)
        largest = np.abs(channels.astype(int)).max(axis=1)
        empty = ~np.moveaxis(before[layer.weight], layer.axis, 0).reshape(len(scales), -1).any(axis=1)
        np.testing.assert_array_equal(largest, np.where(empty, 0, 127))
        shape = [-1 if axis == layer.axis else 1 for axis in range(weight.ndim)]
        error = np.abs(weight * scales.reshape(shape) - before[layer.weight])
        assert (error <= scales.reshape(shape) * 0.5001).all()


def test_a_sparse_weight_keeps_exactly_its_entries_and_its_form_where_that_is_smaller() -> None:
    model = residual_network()
    result = stored_weights(quantized(model, inputs(model)))
    second = stored_weights(model)["second.weight"]
    assert second.sparse
    assert (result["second.weight"].sparse, result["second.weight"].entries) == (True, second.entries)
    assert result["second.weight"].bytes == 9 * second.entries
    assert not result["first.weight"].sparse


def test_pairs_stand_where_engines_fuse_them() -> None:
    """ONNX Runtime computes every layer and the residual sum on integers."""
    model = quantized(residual_network(), inputs(residual_network()))
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["QuantizeLinear"] == 6  # x, b, c, e, f, h
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "Add"):
            assert all(producers[name].op_type == "DequantizeLinear" for name in node.input)
    assert producers["logits"].op_type == "Gemm"


def test_a_layer_that_stays_fp32_is_left_as_it_was() -> None:
    model = residual_network()
    result = quantized(model, inputs(model), keep=frozenset({"second.weight"}))
    np.testing.assert_array_equal(constant_arrays(result)["second.weight"], constant_arrays(model)["second.weight"])
    [node] = [node for node in result.graph.node if "second.weight" in node.input]
    assert node.op_type == "Conv"
    assert node.output[0] == "c"


def convolve(x: Array, w: Array) -> Any:
    """Integer convolution with padding 1 for 3x3 and 0 for 1x1, in int64."""
    size, pad = w.shape[-1], w.shape[-1] // 2
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = (side - size + 1 for side in padded.shape[2:])
    return sum(
        np.einsum("bchw,oc->bohw", padded[:, :, i : i + height, j : j + width], w[:, :, i, j].astype(np.int64))
        for i in range(size)
        for j in range(size)
    )


def emulate(model: onnx.ModelProto, layer_index: int, x: Array) -> tuple[Array, Array]:
    """int32 sums with bias of one layer by numpy, from the quantized graph's own tensors; and those of the graph."""
    base = quantizable(residual_network() if "first.weight" in constant_arrays(model) else encoder())
    layer = base[layer_index]
    arrays: dict[str, Array] = constant_arrays(model)
    values = values_of(integer_form(model), x)
    data = values[f"{layer.input}.quantized"].astype(np.int64) - int(arrays[f"{layer.input}.zero_point"])
    weight = arrays[layer.weight]
    if layer.operator == "Conv":
        sums = convolve(data, weight)
    else:
        sums = data @ (weight.T if layer.operator == "Gemm" else weight).astype(np.int64)
    if layer.bias is not None:
        bias = arrays[layer.bias]
        sums = sums + (bias.reshape(1, -1, 1, 1) if layer.operator == "Conv" else bias)
    produced = next(node.output[0] for node in model.graph.node if f"{layer.weight}.dequantized" in node.input)
    return sums, values[f"{produced}.biased" if layer.bias is not None else f"{produced}.sums"]


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_integer_sums_of_a_network_are_exact(layer: int) -> None:
    model = residual_network()
    x = inputs(model)
    expected, found = emulate(quantized(model, x), layer, x)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("layer", [0, 1])
def test_integer_sums_of_linear_layers_are_exact(layer: int) -> None:
    model = encoder()
    x = inputs(model)
    expected, found = emulate(quantized(model, x), layer, x)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("network", [residual_network, encoder])
def test_the_graph_computes_nearly_what_fp32_computes(network: Callable[[], onnx.ModelProto]) -> None:
    model = network()
    x = inputs(model, rows=64)
    [expected] = onnx_session(model).run(None, {"x": x})
    [found] = onnx_session(quantized(model, x)).run(None, {"x": x})
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert np.abs(found - expected).max() > 0


def test_a_table_is_dequantized_behind_its_lookup() -> None:
    model = lookup()
    x = inputs(model)
    result = quantized(model, x)
    table, stored = constant_arrays(model)["table"].astype(np.float32), constant_arrays(result)
    assert stored["table"].dtype == np.int8
    back = stored["table"].astype(np.float32) * stored["table.scale"].astype(np.float32)
    assert np.abs(back - table).max() <= np.abs(table).max() / 253
    np.testing.assert_array_equal(values_of(result, x)["rows"], back[np.abs(x).astype(np.int64)])


def test_a_bias_too_large_for_int32_widens_the_steps_of_its_channel() -> None:
    weight, bias = np.array([[1e-9], [1.0]], dtype=np.float32), np.array([1000.0, 1.0], dtype=np.float32)
    found = quantize_weight(weight, 0, np.float32(0.01), bias)
    steps, scales = quantize_bias(bias, np.float32(0.01), found.scales)
    np.testing.assert_allclose(steps * scales.astype(np.float64), bias, rtol=1e-6)
    assert found.scales[1] == np.float32(1 / 127)


def test_a_channel_of_zeros_keeps_its_bias() -> None:
    bias = np.array([0.3, 0.0], dtype=np.float32)
    found = quantize_weight(np.zeros((2, 3), dtype=np.float32), 0, np.float32(0.01), bias)
    steps, scales = quantize_bias(bias, np.float32(0.01), found.scales)
    np.testing.assert_allclose(steps * scales.astype(np.float64), bias, rtol=1e-6)
    assert (found.scales > 0).all()


def test_the_same_scales_and_weights_as_onnx_runtimes_quantizer() -> None:
    """For the same ranges; its quantizer needs a newer onnx than DeepSparse does."""
    try:
        from onnxruntime.quantization import quant_utils as tools
    except (ImportError, AttributeError) as error:
        pytest.skip(f"the quantizer of ONNX Runtime does not import: {error}")
    generator = np.random.default_rng(0)
    ends = np.array([0, 255], dtype=np.uint8)
    for low, high in ((0.0, 3.7), (-1.3, 2.9), (-0.4, 0.0)):
        zero_point, scale = tools.compute_scale_zp(np.float32(low), np.float32(high), *ends)
        found = Range(float(np.float32(low)), float(np.float32(high)))
        assert found.zero_point == zero_point
        assert found.scale == pytest.approx(float(scale), rel=1e-6)
    weight = weight_of(generator, (6, 4, 3, 3), 0.5)
    own = quantize_weight(weight, 0, np.float32(0.01))
    for channel in range(6):
        zero_point, scale, values = tools.quantize_data(weight[channel], TensorProto.INT8, symmetric=True)
        assert zero_point == 0
        assert own.scales[channel] == pytest.approx(float(scale), rel=1e-6)
        np.testing.assert_array_equal(own.values[channel], values)
