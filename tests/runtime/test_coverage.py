"""Kernel coverage: exact shares of made-up layers, and what the engines say of graphs of which one half is int8."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.engines.base import Engine
from runtime.engines.coverage import Coverage, Layer, coverage_of
from runtime.engines.onnxruntime import layers_of, open_session
from runtime.manifest import Stage
from runtime.resident import resident_bytes
from tests.engines import ENGINE_NAMES

CHANNELS, SIDE = 16, 14
MACS = CHANNELS * CHANNELS * 9 * SIDE * SIDE


def test_the_share_is_that_of_the_multiply_adds() -> None:
    layers = [Layer("a", 10, True), Layer("b", 25, False), Layer("c", 5, False), Layer("b", 10, False)]
    assert coverage_of(layers) == Coverage(0.2, "multiply-adds", ("b", "c"))
    assert coverage_of([]) == Coverage(1.0, "multiply-adds")


def test_a_slow_path_is_named() -> None:
    assert Coverage(1.0, "multiply-adds").note is None
    slow = Coverage(0.75, "operators", ("a", "b", "c", "d", "e"))
    assert slow.note == "25.0% of its operators run in slow kernels: a, b, c and 2 more"
    assert Coverage(0.5, "operators").note == "50.0% of its operators run in slow kernels"


def test_engines_say_what_loading_took_and_what_is_fast(engine: Engine) -> None:
    info = engine.info()
    assert 0 < info.compile_seconds < info.load_seconds
    assert info.memory_bytes is not None
    assert info.coverage is not None
    if engine.name == "deepsparse":  # its optimized runtime leaves out operators of the tiny text network
        assert info.coverage.unit == "operators"
        assert 0 < info.coverage.share <= 1
    else:
        assert info.coverage == Coverage(1.0, "multiply-adds")
    assert any("slow kernels" in note for note in info.notes) == (info.coverage.share < 1)


def _half_quantized() -> onnx.ModelProto:
    """Two equal convolutions, of which the first is int8 in QDQ form."""
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    scale = np.float32(np.abs(weight).max() / 127)
    constants = {
        "scale": np.float32(0.05), "zero": np.uint8(128), "weight_scale": scale, "weight_zero": np.int8(0),
        "int8": np.round(weight / scale).astype(np.int8), "float": weight,
    }  # fmt: skip
    quantizer = ["scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *quantizer], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", *quantizer], ["x32"]),
        helper.make_node("DequantizeLinear", ["int8", "weight_scale", "weight_zero"], ["weight"]),
        helper.make_node("Conv", ["x32", "weight"], ["first"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["first", *quantizer], ["first8"]),
        helper.make_node("DequantizeLinear", ["first8", *quantizer], ["first32"]),
        helper.make_node("Conv", ["first32", "float"], ["y"], name="second", pads=[1, 1, 1, 1]),
    ]
    shape = [1, CHANNELS, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_onnxruntime_tells_int8_from_floating_point(tmp_path: Path) -> None:
    session, _ = open_session(_half_quantized().SerializeToString(), 1, profile=str(tmp_path / "profile"))
    session.run(None, {"x": np.ones((1, CHANNELS, SIDE, SIDE), dtype=np.float32)})
    stage = Stage(file="half.onnx", inputs=("x",), outputs=("y",), dense_macs=2 * MACS, effective_macs=2 * MACS)
    layers = layers_of(Path(session.end_profiling()), stage)
    slow = [layer for layer in layers if not layer.accelerated]
    assert [layer.macs for layer in slow] == [MACS]
    assert coverage_of(layers).share == 0.5


@pytest.mark.skipif("openvino" not in ENGINE_NAMES, reason="OpenVINO is not installed")
def test_openvino_tells_int8_from_floating_point() -> None:
    from runtime.engines.openvino import _core, executed_layer

    model = _core().read_model(_half_quantized().SerializeToString())
    compiled = _core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    compiled.create_infer_request().infer({"x": np.ones((1, CHANNELS, SIDE, SIDE), dtype=np.float32)})
    nodes: list[Any] = compiled.get_runtime_model().get_ordered_ops()
    layers = [layer for node in nodes if (layer := executed_layer(node, "int8")) is not None]
    assert [layer.macs for layer in layers] == [MACS, MACS]
    assert [layer.accelerated for layer in layers] == [True, False]


def test_resident_memory_is_what_was_touched() -> None:
    before = resident_bytes()
    if before is None:
        pytest.skip("this system does not tell")
    block = np.ones(64 * 2**20, dtype=np.uint8)
    held = resident_bytes()
    del block
    freed = resident_bytes()
    assert held is not None
    assert freed is not None
    assert 60 * 2**20 < held - before < 80 * 2**20
    assert held - freed > 60 * 2**20


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path / "missing") is None
