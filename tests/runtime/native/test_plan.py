"""Planning, without generating code: fusion, memory, tiles, packing, and what is refused."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from runtime.artifact import Artifact
from runtime.engines.native.convolutions import cut_tiles
from runtime.engines.native.graph import require_known, understand
from runtime.engines.native.kernels.stream import OFFSET_UNIT
from runtime.engines.native.layout import chunk_of
from runtime.engines.native.machine import InstructionSet
from runtime.engines.native.plan import Buffer, assign
from runtime.engines.native.streams import kept_weights, pack_streams
from runtime.errors import UnsupportedModel
from runtime.graph import constant_arrays, load_graph
from tests.runtime.native.harness import graph_of, plan_of

MACHINE = InstructionSet("planned only", "", "", 32)


def test_norms_sums_and_activations_leave_no_pass_of_their_own(live_artifacts: dict[str, Artifact]) -> None:
    for name in ("wide_resnet", "bottleneck"):
        artifact = live_artifacts[name]
        trunk = load_graph(artifact.path("trunk.onnx"))
        shape = (1, *artifact.manifest.inputs[0].shape[1:])
        plan = plan_of(trunk, {"image": tuple(map(int, shape))}, threads=2, machine=MACHINE)
        assert "map" not in {step.kernel for step in plan.steps}
        assert str(plan).count("\n") == len(plan.steps) + 1


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=20))
def test_buffers_that_are_alive_together_never_overlap(drawn: list[tuple[int, int, int, bool]]) -> None:
    buffers = [
        Buffer(str(index), size, min(a, b), max(a, b), pinned) for index, (size, a, b, pinned) in enumerate(drawn)
    ]
    total = assign(buffers)
    for one in buffers:
        assert one.offset % 64 == 0
        assert 0 <= one.offset <= total - one.nbytes
        for other in buffers:
            together = one.pinned or other.pinned or (one.first <= other.last and other.first <= one.last)
            if one is not other and together:
                assert one.offset + one.nbytes <= other.offset or other.offset + other.nbytes <= one.offset


@given(st.integers(1, 300), st.integers(1, 8), st.integers(1, 5))
def test_tiles_cover_every_vector_once_and_stay_inside_chunks(vectors: int, size: int, threads: int) -> None:
    chunk = chunk_of(vectors, threads)
    tiles = cut_tiles(vectors, chunk, size)
    covered = [vector for first, count in tiles for vector in range(first, first + count)]
    assert covered == list(range(vectors))
    assert all(count <= size and first // chunk == (first + count - 1) // chunk for first, count in tiles)


@given(st.integers(1, 40), st.integers(1, 30), st.sampled_from([0.0, 0.1, 1.0]), st.integers(1, 30), st.integers(1, 9))
def test_streams_hold_every_kept_weight_once(outputs: int, inputs: int, density: float, block: int, parts: int) -> None:
    generator = np.random.default_rng(outputs * 31 + inputs)
    weight = generator.standard_normal((outputs, inputs, 3, 1)).astype(np.float32)
    weight *= generator.random(weight.shape) < density
    taps, step = np.array([0, 32, 96], np.int64), 128
    streams = pack_streams(kept_weights(weight), taps, step, block_channels=block, parts=parts)
    dense = np.zeros_like(weight)
    assert streams.parts[0] == 0
    assert streams.parts[-1] == outputs
    assert len(streams.parts) == parts + 1
    for number, base in enumerate(streams.block_bases):
        for part, (first, stop) in enumerate(pairwise(streams.parts.tolist())):
            entry = streams.starts[number, part]
            rows = streams.rows[number, first:stop]
            assert (np.diff(rows[:, 1].astype(int)) >= 0).all()
            for row, count in rows:
                for place in range(entry, entry + count):
                    channel, tap = divmod(int(base) + int(streams.offsets[place]) * OFFSET_UNIT, step)
                    dense[row, channel, taps.tolist().index(tap), 0] = streams.values[place]
                entry += count
    np.testing.assert_array_equal(dense, weight)


def test_a_packed_weight_takes_at_most_six_bytes_and_five_percent() -> None:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((256, 256, 1, 1)).astype(np.float32)
    weight *= generator.random(weight.shape) < 0.2
    streams = pack_streams(kept_weights(weight), np.zeros(1, np.int64), 448, block_channels=256)
    assert streams.nbytes <= 6 * np.count_nonzero(weight) * 1.05


@pytest.mark.parametrize("shape", [(2**16, 1, 1, 1), (1, 2**16, 1, 1)])
def test_a_sparse_layer_that_16_bits_cannot_count_is_refused(shape: tuple[int, ...]) -> None:
    weight = np.zeros(shape, np.float32)
    weight[0] = 1
    with pytest.raises(UnsupportedModel, match=r"65536.*at most 65535 of each"):
        pack_streams(kept_weights(weight), np.zeros(1, np.int64), 64, block_channels=1)


def test_more_work_than_a_wave_can_count_is_refused() -> None:
    model = graph_of([helper.make_node("Neg", ["x"], ["y"])], {}, {"x": (2**18, 1, 1, 1)}, "y")
    with pytest.raises(UnsupportedModel, match="pieces of work"):
        plan_of(model, {"x": (2**18, 1, 1, 1)}, threads=1, machine=MACHINE)


def test_operators_that_are_not_supported_are_all_listed() -> None:
    nodes = [helper.make_node("Selu", ["x"], ["a"]), helper.make_node("LpNormalization", ["a"], ["y"])]
    with pytest.raises(UnsupportedModel, match=r"graph\.onnx: LpNormalization, Selu\."):
        require_known({"graph.onnx": graph_of(nodes, {}, {"x": (1, 3, 4, 4)}, "y")})


def test_a_supported_operator_in_an_unsupported_form_is_named_with_its_reason() -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], name="classes", axis=1)]
    model = graph_of(nodes, {}, {"x": (1, 3, 4, 4)}, "y")
    with pytest.raises(UnsupportedModel, match=r"Softmax classes \(only over attention scores\)"):
        understand(model, constant_arrays(model), {"x": (1, 3, 4, 4)}, "graph.onnx")


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3, 4, 5)])
def test_an_input_of_another_rank_is_refused(shape: tuple[int, ...]) -> None:
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": shape}, "y")
    with pytest.raises(UnsupportedModel, match=r"input x of shape \["):
        understand(model, {}, {"x": shape}, "graph.onnx")


def test_every_node_that_is_not_understood_is_listed_with_its_reason() -> None:
    constants: dict[str, NDArray[Any]] = {
        "some": np.array([0, 2], np.int64), "low": np.array([1], np.int64), "high": np.array([3], np.int64),
        "axis": np.array([2], np.int64), "power": np.array(1.5, np.float32), "shape": np.array([-1, 16], np.int64),
        "filter": np.ones((2, 3, 1), np.float32),
    }  # fmt: skip
    forms: dict[str, tuple[list[str], dict[str, Any], str]] = {
        "Gather": (["x", "some"], {"axis": 1}, "indices that are not in a row"),
        "Slice": (["x", "low", "high", "axis"], {}, "takes some of the tokens or pixels, neither one nor all"),
        "Pow": (["x", "power"], {}, "with exponent 1.5"),
        "Sqrt": (["x"], {}, "only in a layer norm"),
        "Erf": (["x"], {}, "only in a GELU"),
        "Concat": (["x", "x"], {"axis": 2}, "only along the channels of alike tensors"),
        "MatMul": (["x", "x"], {}, "a product of these tensors"),
        "MaxPool": (["x"], {"kernel_shape": [2, 2], "ceil_mode": 1}, "auto_pad and ceil_mode"),
        "ReduceMean": (["x"], {"axes": [3]}, "over axes [3] of [2, 3, 4, 6]"),
        "Reshape": (["x", "shape"], {}, "[2, 3, 4, 6] to [9, 16]"),
        "Conv": (["x", "filter"], {}, "only two-dimensional images"),
        "Where": (["x", "x", "x"], {}, "only masks and attention scores"),
        "HardSwish": (["x"], {}, "an operator that is not known"),
    }
    nodes = []
    for kind, (inputs, attributes, _) in forms.items():
        nodes.append(helper.make_node(kind, inputs, [f"{kind}_out"], name=f"the_{kind}", **attributes))
        nodes.append(helper.make_node("Relu", [f"{kind}_out"], [f"{kind}_after"]))
    model = graph_of(nodes, constants, {"x": (2, 3, 4, 6)}, "Relu_after")
    with pytest.raises(UnsupportedModel) as caught:
        understand(model, constant_arrays(model), {"x": (2, 3, 4, 6)}, "graph.onnx")
    message = str(caught.value)
    for kind, (_, _, reason) in forms.items():
        named = "Relu Slice_after" if kind == "Slice" else f"{kind} the_{kind}"  # a view, until something reads it
        assert f"{named} ({reason})" in message, kind
    assert message.count("(") == len(forms)
