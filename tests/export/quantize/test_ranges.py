"""The calibrator: ranges that hold zero, cover what they should, and clip where that is better."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.quantize.execution import Graphs, StageGraph
from export.quantize.ranges import BINS, Histogram, Range, collect_ranges, least_error, quantization_error
from runtime.manifest import RangeMethod, Stage


@pytest.mark.parametrize(
    ("low", "high", "zero_point"), [(0.0, 5.1, 0), (-2.0, 2.5, 113), (1.0, 2.0, 0), (-3.0, -1.0, 255), (0.0, 0.0, 0)]
)
def test_zero_is_always_exact(low: float, high: float, zero_point: int) -> None:
    found = Range(low, high)
    assert found.zero_point == zero_point
    assert found.scale > 0
    # What 0 becomes: rint(0 / scale) + zero point, and back.
    assert (np.rint(np.float32(0) / found.scale) + zero_point - zero_point) * found.scale == 0


def test_a_range_without_width_has_a_step() -> None:
    assert Range(0.0, 0.0).scale == 1


def graphs() -> Graphs:
    """y = Relu(x)."""
    shape: list[str | int | None] = ["batch", 4]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    stage = Stage(file="head_0.onnx", inputs=("x",), outputs=("y",), dense_macs=0, effective_macs=0)
    return Graphs(None, (StageGraph(stage, model),))


@pytest.mark.parametrize("method", ["mse", "minmax"])
def test_ranges_are_those_of_the_tensors_over_all_batches(method: RangeMethod) -> None:
    generator = np.random.default_rng(0)
    batches = [generator.standard_normal((50, 4)).astype(np.float32) for _ in range(3)]
    everything = np.concatenate(batches)
    found = collect_ranges(
        graphs(), {"head_0.onnx": ("x", "y")}, lambda: [{"x": batch} for batch in batches], method=method
    )["head_0.onnx"]
    if method == "minmax":
        assert (found["x"].low, found["x"].high) == (float(everything.min()), float(everything.max()))
        assert (found["y"].low, found["y"].high) == (0.0, float(everything.max()))
    else:
        assert everything.min() <= found["x"].low < -1 < 1 < found["x"].high <= everything.max()
        assert found["y"].zero_point == 0


def error_of(values: NDArray[np.float64], chosen: Range) -> float:
    """Squared error of quantizing values themselves, not their histogram."""
    scale, zero = float(chosen.scale), int(chosen.zero_point)
    return float(((values - (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale) ** 2).sum())


@pytest.mark.parametrize("kind", ["normal", "outlier", "positive"])
def test_no_other_range_is_clearly_better(kind: str) -> None:
    generator = np.random.default_rng(1)
    values = generator.standard_normal(20_000)
    if kind == "outlier":
        values[0] = 60.0
    if kind == "positive":
        values = np.abs(values) ** 3
    low, high = float(values.min()), float(values.max())
    histogram = Histogram(low, high, np.histogram(values, bins=BINS, range=(low, high))[0])
    chosen = least_error(histogram)
    exact = error_of(values, chosen)
    assert quantization_error(histogram, chosen) == pytest.approx(exact, rel=0.5)
    others = [Range(low * a, high * b) for a in np.linspace(0.2, 1, 9) for b in np.linspace(0.2, 1, 9)]
    assert exact <= 1.1 * min(error_of(values, other) for other in others)
    assert exact <= error_of(values, Range(low, high))


def test_one_outlier_is_clipped() -> None:
    """60,000 values within 1, and one of 3: steps three times as fine are worth its error."""
    counts = np.zeros(BINS, dtype=np.int64)
    counts[: BINS // 3] = 100_000
    counts[-1] = 1
    assert least_error(Histogram(0.0, 3.0, counts)).high < 1.5
