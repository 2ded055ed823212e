"""Single layers of random shapes against ONNX Runtime, on every instruction set that the machine has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from runtime.engines.native.compile import instruction_sets
from tests.runtime.native.harness import graph_of, require_close, run_native, run_reference

EVERY_SET = pytest.mark.parametrize("instruction_set", instruction_sets())


def _sparse(generator: np.random.Generator, shape: tuple[int, ...], density: float) -> NDArray[np.float32]:
    """A weight with an empty first row, unless it is dense."""
    weight = generator.standard_normal(shape).astype(np.float32)
    weight *= generator.random(shape) < density
    if density < 1:
        weight[0] = 0
    return weight


@EVERY_SET
@settings(max_examples=25)
@given(data=st.data())
def test_a_convolution_of_any_geometry_is_that_of_onnx_runtime(instruction_set: str, data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 1, 2, 3]))
    inputs, outputs = groups * data.draw(st.integers(1, 6)), groups * data.draw(st.integers(1, 9))
    kernel = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    strides = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilations = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    least = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    height, width = (data.draw(st.integers(size, size + 22)) for size in least)
    density = data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    rows, threads = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    residual, relu = data.draw(st.booleans()), data.draw(st.booleans())
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))

    constants = {
        "w": _sparse(generator, (outputs, inputs // groups, *kernel), density),
        "b": generator.standard_normal(outputs).astype(np.float32),
        "scale": generator.standard_normal((1, outputs, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "b"], ["conv"], strides=strides, dilations=dilations, pads=pads, group=groups
        ),
        helper.make_node("Mul", ["conv", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "conv" if residual else "scale"], ["sum"]),
        helper.make_node("Relu" if relu else "Identity", ["sum"], ["y"]),
    ]
    x = generator.standard_normal((rows, inputs, height, width)).astype(np.float32)
    model = graph_of(nodes, constants, {"x": x.shape}, "y")
    found = run_native(model, {"x": x}, threads=threads, instruction_set=instruction_set)
    require_close(found, run_reference(model, {"x": x}))


@EVERY_SET
@settings(max_examples=15)
@given(data=st.data())
def test_a_linear_layer_over_tokens_is_that_of_onnx_runtime(instruction_set: str, data: st.DataObject) -> None:
    inputs, outputs = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 40))
    rows, tokens, threads = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 150)), data.draw(st.integers(1, 3))
    density = data.draw(st.sampled_from([0.0, 0.05, 0.4, 1.0]))
    activation = data.draw(st.sampled_from(["Relu", "Tanh", "Sigmoid", "Identity"]))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    weight = np.ascontiguousarray(_sparse(generator, (outputs, inputs), density).T)
    constants = {"w": weight, "b": generator.standard_normal(outputs).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["b", "product"], ["sum"]),
        helper.make_node(activation, ["sum"], ["y"]),
    ]
    x = generator.standard_normal((rows, tokens, inputs)).astype(np.float32)
    model = graph_of(nodes, constants, {"x": x.shape}, "y")
    found = run_native(model, {"x": x}, threads=threads, instruction_set=instruction_set)
    require_close(found, run_reference(model, {"x": x}))


@EVERY_SET
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
def test_max_pooling_is_that_of_onnx_runtime(instruction_set: str, kernel: int, stride: int, pad: int) -> None:
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
    x = np.random.default_rng(0).standard_normal((2, 3, 13, 18)).astype(np.float32)
    model = graph_of([pool], {}, {"x": x.shape}, "y")
    np.testing.assert_array_equal(
        run_native(model, {"x": x}, instruction_set=instruction_set), run_reference(model, {"x": x})
    )


@EVERY_SET
@settings(max_examples=20)
@given(data=st.data())
def test_average_pooling_of_any_geometry_is_that_of_onnx_runtime(instruction_set: str, data: st.DataObject) -> None:
    kernel = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    strides = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = [data.draw(st.integers(0, size - 1)) for size in kernel * 2]
    height, width = (data.draw(st.integers(size, size + 20)) for size in kernel)
    rows, channels, threads = (data.draw(st.integers(1, 3)) for _ in range(3))
    pool = helper.make_node(
        "AveragePool", ["x"], ["y"], kernel_shape=kernel, strides=strides, pads=pads,
        count_include_pad=data.draw(st.integers(0, 1)),
    )  # fmt: skip
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    x = generator.standard_normal((rows, channels, height, width)).astype(np.float32)
    model = graph_of([pool], {}, {"x": x.shape}, "y")
    found = run_native(model, {"x": x}, threads=threads, instruction_set=instruction_set)
    require_close(found, run_reference(model, {"x": x}))


@EVERY_SET
def test_a_gelu_is_exact_to_a_millionth_everywhere(instruction_set: str) -> None:
    constants = {"root": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
    nodes = [
        helper.make_node("Div", ["x", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["sum"]),
        helper.make_node("Mul", ["x", "sum"], ["product"]),
        helper.make_node("Mul", ["product", "half"], ["y"]),
    ]
    x = np.linspace(-12, 12, 5000, dtype=np.float32).reshape(1, 1000, 5)
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    model = graph_of(nodes, arrays, {"x": x.shape}, "y")
    found = run_native(model, {"x": x}, instruction_set=instruction_set)
    assert np.abs(found - run_reference(model, {"x": x})).max() < 1e-6 * 6


@EVERY_SET
@pytest.mark.parametrize("pads", [(0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, 0)])
def test_padding_on_one_side_of_a_1x1_convolution_counts(instruction_set: str, pads: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    constants = {"w": np.full((2, 1, 1, 1), 0.7, np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=pads)]
    x = generator.standard_normal((1, 1, 3, 2)).astype(np.float32)
    model = graph_of(nodes, constants, {"x": x.shape}, "y")
    require_close(
        run_native(model, {"x": x}, threads=1, instruction_set=instruction_set), run_reference(model, {"x": x})
    )
