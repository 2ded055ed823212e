from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.onnx_ml_pb2 import ModelProto, TensorProto

from runtime.artifact import Artifact
from runtime.errors import ArtifactError
from runtime.graph import check_graph, dense_of, load_graph, sparse_constants, stored_weights

WEIGHT = np.array([[0, 2, 0, 0], [-1, 0, 0, 3]], dtype=np.float32)
"""Linear indices 1, 4 and 7 of 8."""


def _model() -> ModelProto:
    """MatMul of [batch, 2] by a sparse constant, plus a dense initializer, plus a dense constant."""
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([2, -1, 3], dtype=np.float32), "values"),
        numpy_helper.from_array(np.array([1, 4, 7], dtype=np.int64), "indices"),
        [2, 4],
    )
    extra = numpy_helper.from_array(np.array([[1, 0, 2, 0]], dtype=np.float32), "extra")
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["weight"], name="sparse", sparse_value=sparse),
            helper.make_node("Constant", [], ["extra"], name="dense", value=extra),
            helper.make_node("MatMul", ["x", "weight"], ["product"]),
            helper.make_node("Add", ["product", "extra"], ["sum"]),
            helper.make_node("Add", ["sum", "bias"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.ones((1, 4), dtype=np.float32), "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _set_indices(model: ModelProto, indices: object, dtype: type = np.int64) -> None:
    sparse = model.graph.node[0].attribute[0].sparse_tensor
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array(indices, dtype=dtype), "indices"))


def _set_values(model: ModelProto, values: object, dtype: type = np.float32) -> None:
    sparse = model.graph.node[0].attribute[0].sparse_tensor
    sparse.values.CopyFrom(numpy_helper.from_array(np.array(values, dtype=dtype), "values"))


def _set_dims(model: ModelProto, dims: list[int]) -> None:
    model.graph.node[0].attribute[0].sparse_tensor.dims[:] = dims


def test_a_good_graph() -> None:
    model = _model()
    check_graph(model, "good")
    [(name, sparse)] = sparse_constants(model)
    assert name == "weight"
    np.testing.assert_array_equal(dense_of(sparse), WEIGHT)


def test_weights_are_counted() -> None:
    model = _model()
    _set_values(model, [2, 0, 3])  # kept by the mask, yet zero
    found = stored_weights(model)
    counts = {name: (w.shape, w.entries, w.nonzero, w.sparse) for name, w in found.items()}
    assert counts == {
        "weight": ((2, 4), 3, 2, True),
        "extra": ((1, 4), 4, 2, False),
        "bias": ((1, 4), 4, 4, False),
    }


@pytest.mark.parametrize(
    ("indices", "dtype", "problem"),
    [
        ([4, 1, 7], np.int64, "sorted, unique and inside"),
        ([1, 1, 7], np.int64, "sorted, unique and inside"),
        ([-1, 4, 7], np.int64, "sorted, unique and inside"),
        ([1, 4, 8], np.int64, "sorted, unique and inside"),
        ([1, 4, 2**62], np.int64, "sorted, unique and inside"),
        ([-(2**63), 4, 2**63 - 1], np.int64, "sorted, unique and inside"),
        ([2**63 - 1, -(2**63), 7], np.int64, "sorted, unique and inside"),
        ([1, 4], np.int64, "values for"),
        ([1, 4, 5, 7], np.int64, "values for"),
        ([], np.int64, "values for"),
        ([1, 4, 7], np.int32, "linear int64"),
        ([1, 4, 7], np.float32, "linear int64"),
        ([[0, 1], [1, 0], [1, 3]], np.int64, "linear int64"),
    ],
)
def test_bad_indices(indices: object, dtype: type, problem: str) -> None:
    model = _model()
    _set_indices(model, indices, dtype)
    with pytest.raises(ArtifactError, match=problem):
        check_graph(model, "bad")


def _wrong_count_in_a_typed_field(model: ModelProto) -> None:
    indices = model.graph.node[0].attribute[0].sparse_tensor.indices
    indices.ClearField("raw_data")
    indices.int64_data[:] = [1, 4]  # the shape says three


def _short_raw_data(model: ModelProto) -> None:
    model.graph.node[0].attribute[0].sparse_tensor.values.raw_data = b"\0" * 5


def _external(tensor: TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="/etc/passwd")


def _subgraph(model: ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))


def _foreign_operator(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def _sparse_initializer(model: ModelProto) -> None:
    model.graph.sparse_initializer.append(model.graph.node[0].attribute[0].sparse_tensor)


def _function(model: ModelProto) -> None:
    model.functions.append(
        helper.make_function("local", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])],
                             [helper.make_opsetid("", 17)])
    )  # fmt: skip


def _text_constant(model: ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"x"]))


def _dangling_input(model: ModelProto) -> None:
    model.graph.node[2].input[0] = "nowhere"


def _unknown_operator(model: ModelProto) -> None:
    model.graph.node[2].op_type = "Explode"


def _constant_without_output(model: ModelProto) -> None:
    model.graph.node[0].ClearField("output")


def _impossible_type(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = 65


def _text_that_is_not_utf8(model: ModelProto) -> None:
    encoded = model.SerializeToString().replace(b"MatMul", b"Mat\xfful")
    model.Clear()
    model.MergeFromString(encoded)


def _mismatched_shapes(model: ModelProto) -> None:
    _set_dims(model, [4, 2])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_wrong_count_in_a_typed_field, "instead of"),
        (_short_raw_data, "5 bytes instead of 12"),
        (lambda model: _external(model.graph.initializer[0]), "refers to another file"),
        (lambda model: _external(model.graph.node[1].attribute[0].t), "refers to another file"),
        (lambda model: _external(model.graph.node[0].attribute[0].sparse_tensor.values), "refers to another file"),
        (lambda model: _external(model.graph.node[0].attribute[0].sparse_tensor.indices), "refers to another file"),
        (_subgraph, "holds a subgraph"),
        (_foreign_operator, "only the standard ONNX operators"),
        (lambda model: setattr(model.opset_import[0], "version", 13), "only the standard ONNX operators of opset 17"),
        (lambda model: model.ClearField("opset_import"), "only the standard ONNX operators"),
        (_sparse_initializer, "sparse initializers are not allowed"),
        (_function, "local functions"),
        (_text_constant, "unsupported type"),
        (_dangling_input, "not a valid ONNX graph"),
        (_unknown_operator, "Explode is not one of the operators"),
        (_constant_without_output, "0 outputs instead of 1"),
        (_impossible_type, "not a valid ONNX graph"),
        (_text_that_is_not_utf8, "is not one of the operators"),
        (_mismatched_shapes, "not a valid ONNX graph"),
        (lambda model: _set_dims(model, []), "positive sizes"),
        (lambda model: _set_dims(model, [2, 0]), "positive sizes"),
        (lambda model: _set_dims(model, [-2, -4]), "positive sizes"),
        (lambda model: _set_dims(model, [2**31, 2**31]), "exceed the limit"),
        (lambda model: _set_dims(model, [2**62, 2**62]), "exceed the limit"),
        (lambda model: model.graph.initializer[0].dims.__setitem__(slice(None), [-1, -4]), "negative size"),
        (lambda model: model.graph.initializer[0].dims.__setitem__(slice(None), [2**40, 4]), "instead of"),
        (lambda model: _set_values(model, [1, 2, 3], np.uint16), "unsupported type"),
        (lambda model: _set_values(model, [[1, 2, 3]]), "values for"),
    ],
)  # fmt: skip
def test_bad_graphs(tmp_path: Path, damage: Callable[[ModelProto], object], problem: str) -> None:
    model = _model()
    damage(model)
    with pytest.raises(ArtifactError, match=problem):
        check_graph(model, "bad")
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=problem):
        load_graph(tmp_path / "bad.onnx")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100, b"\x08\x08"])
def test_what_is_no_onnx_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ArtifactError):
        load_graph(tmp_path / "x.onnx")


def test_graphs_in_graphs_without_end(tmp_path: Path) -> None:
    """A parser that follows them would run out of stack."""

    def field(number: int, content: bytes) -> bytes:
        size, length = b"", len(content)
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    graph = b""
    for _ in range(2000):
        graph = field(1, field(5, field(6, graph)))  # node, attribute, g
    (tmp_path / "deep.onnx").write_bytes(field(7, graph))
    with pytest.raises(ArtifactError, match="is not an ONNX file"):
        load_graph(tmp_path / "deep.onnx")


@given(st.data())
def test_damaged_files_are_read_or_refused(image_artifact: Artifact, data: st.DataObject) -> None:
    content = bytearray(image_artifact.path("head_0.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = image_artifact.folder.parent / "damaged.onnx"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        model = load_graph(path)
    except ArtifactError:
        return
    assert all(0 <= weight.nonzero <= weight.entries for weight in stored_weights(model).values())
