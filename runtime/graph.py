"""ONNX graphs of an artifact, as files that may come from anyone: checked before an engine sees a byte, and counted.

A sparse weight is a `Constant` node with attribute `sparse_value`: linear int64 indices, sorted and unique.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from runtime.errors import ArtifactError
from runtime.graph_structure import OPSET as OPSET
from runtime.graph_structure import check_structure
from runtime.plain_file import read_plain

MAX_GRAPH_BYTES = 2 * 2**30 - 1
MAX_DENSE_BYTES = 4 * 2**30
"""Largest total size of a graph's constants once they are dense."""
FREE_DENSE_BYTES = 64 * 2**20
MAX_EXPANSION = 1024
"""Beyond `FREE_DENSE_BYTES`, dense constants may take this many bytes for each byte of the graph."""
ELEMENT_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4, TensorProto.INT64: 8, TensorProto.INT32: 4, TensorProto.INT8: 1, TensorProto.UINT8: 1,
    TensorProto.BOOL: 1, TensorProto.DOUBLE: 8, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2,
}  # fmt: skip
"""Element types a graph may hold, with their size in bytes."""

WEIGHT_TYPES = frozenset(ELEMENT_BYTES) - {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}
"""Element types of weights; the others are shapes, axes and masks."""

FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


@dataclass(frozen=True)
class StoredWeight:
    """A constant tensor of a graph as it lies in the file."""

    name: str
    shape: tuple[int, ...]
    entries: int
    """Values in the file: all of them for a dense tensor, the listed ones for a sparse one."""
    nonzero: int
    """Values in the file that are not zero."""
    sparse: bool
    bytes: int
    """What values and indices take as raw data."""


def load_graph(path: Path) -> onnx.ModelProto:
    """Read and check one ONNX file. Raises ArtifactError; never follows a reference to another file."""
    model = onnx.ModelProto()
    content = read_plain(path, MAX_GRAPH_BYTES)
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ArtifactError(f"{path} is not an ONNX file: {error}") from error
    check_graph(model, str(path), content)
    return model


def check_graph(model: onnx.ModelProto, where: str, content: bytes | None = None) -> None:
    """Raise ArtifactError unless the graph is safe to hand to an engine.

    Engines trust what they read: an out-of-range sparse index crashes DeepSparse, for one. `content` is the file that
    the model was read from, if any: the checker of ONNX wants bytes, and to write them anew takes longer than to check.
    """
    check_structure(model, where)
    total = 0
    for tensor in _dense_tensors(model):
        total += _check_dense(tensor, where)
    for name, sparse in sparse_constants(model):
        total += _check_sparse(sparse, f"{where}: {name}")
    if total > MAX_DENSE_BYTES:
        raise ArtifactError(f"{where}: constants of {total >> 20} MiB exceed the limit of {MAX_DENSE_BYTES >> 20} MiB.")
    size = model.ByteSize() if content is None else len(content)
    if total > FREE_DENSE_BYTES + MAX_EXPANSION * size:
        raise ArtifactError(
            f"{where}: constants of {total >> 20} MiB are too much for a file of {size} bytes: {MAX_EXPANSION} times "
            f"its size and {FREE_DENSE_BYTES >> 20} MiB is the limit."
        )
    try:
        onnx.checker.check_model(model if content is None else content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{where}: not a valid ONNX graph: {error}") from error


def stored_weights(model: onnx.ModelProto) -> dict[str, StoredWeight]:
    """All floating-point and 8-bit constants of two or more axes, by tensor name."""
    weights = {}
    for name, tensor in _dense_constants(model):
        if len(tensor.dims) >= 2 and tensor.data_type in WEIGHT_TYPES:
            array = numpy_helper.to_array(tensor)
            nonzero = int(np.count_nonzero(array))
            size = array.size * ELEMENT_BYTES[tensor.data_type]
            weights[name] = StoredWeight(name, tuple(tensor.dims), array.size, nonzero, sparse=False, bytes=size)
    for name, sparse in sparse_constants(model):
        values = numpy_helper.to_array(sparse.values)
        nonzero = int(np.count_nonzero(values))
        size = values.size * (ELEMENT_BYTES[sparse.values.data_type] + ELEMENT_BYTES[sparse.indices.data_type])
        weights[name] = StoredWeight(name, tuple(sparse.dims), values.size, nonzero, sparse=True, bytes=size)
    return weights


def sparse_constants(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.SparseTensorProto]]:
    """All sparse constants, as (name of the tensor, its COO form)."""
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "sparse_value":
                    yield node.output[0], attribute.sparse_tensor


def constant_names(model: onnx.ModelProto) -> set[str]:
    """Names of all constants, sparse and dense."""
    return {name for name, _ in (*_dense_constants(model), *sparse_constants(model))}


def constant_arrays(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """All constants, sparse and dense, as dense arrays by tensor name."""
    arrays = {name: numpy_helper.to_array(tensor) for name, tensor in _dense_constants(model)}
    return arrays | {name: dense_of(sparse) for name, sparse in sparse_constants(model)}


def without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph without the operators and initializers that its outputs do not depend on."""
    readers = Counter([output.name for output in model.graph.output])
    readers.update(name for node in model.graph.node for name in node.input)
    used = []
    for node in reversed(model.graph.node):  # after those that read it
        if any(readers[name] for name in node.output if name):
            used.append(node)
        else:
            readers.subtract(node.input)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    del result.graph.initializer[:]
    result.graph.node.extend(reversed(used))
    result.graph.initializer.extend(tensor for tensor in model.graph.initializer if readers[tensor.name])
    return result


def dense_of(sparse: onnx.SparseTensorProto) -> NDArray[np.generic]:
    """Dense array of a sparse constant that passed `check_graph`."""
    values = numpy_helper.to_array(sparse.values)
    dense = np.zeros(math.prod(sparse.dims), dtype=values.dtype)
    dense[numpy_helper.to_array(sparse.indices)] = values
    return dense.reshape(tuple(sparse.dims))


def _dense_constants(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initializers and dense `Constant` nodes, as (name of the tensor, its value)."""
    for tensor in model.graph.initializer:
        yield tensor.name, tensor
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t


def _dense_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.type == onnx.AttributeProto.TENSOR else attribute.tensors


def _check_dense(tensor: onnx.TensorProto, where: str) -> int:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ArtifactError(f"{where}: tensor {tensor.name!r} refers to another file, which is not allowed.")
    if tensor.data_type not in ELEMENT_BYTES or any(size < 0 for size in tensor.dims):
        raise ArtifactError(f"{where}: tensor {tensor.name!r} has an unsupported type or a negative size.")
    cells = math.prod(tensor.dims)
    size = cells * ELEMENT_BYTES[tensor.data_type]
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != size:
            raise ArtifactError(f"{where}: tensor {tensor.name!r} has {len(tensor.raw_data)} bytes instead of {size}.")
    elif (values := len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))) != cells:
        raise ArtifactError(f"{where}: tensor {tensor.name!r} has {values} values instead of {cells}.")
    if tensor.data_type in FLOAT_TYPES:
        array = numpy_helper.to_array(tensor)
        if np.isnan(array).any() or (cells > 1 and not np.isfinite(array).all()):
            raise ArtifactError(f"{where}: tensor {tensor.name!r} holds values that are not finite.")
    return size


def _check_sparse(sparse: onnx.SparseTensorProto, where: str) -> int:
    dims = tuple(sparse.dims)
    if not dims or min(dims) < 1:
        raise ArtifactError(f"{where}: a sparse constant needs positive sizes, not {dims}.")
    cells = math.prod(dims)
    _check_dense(sparse.values, where)
    _check_dense(sparse.indices, where)
    if np.isinf(numpy_helper.to_array(sparse.values)).any():
        raise ArtifactError(f"{where}: sparse values must be finite.")
    if sparse.indices.data_type != TensorProto.INT64 or len(sparse.indices.dims) != 1:
        raise ArtifactError(f"{where}: sparse indices must be linear int64.")
    indices = numpy_helper.to_array(sparse.indices)
    if tuple(sparse.values.dims) != indices.shape:
        raise ArtifactError(f"{where}: {tuple(sparse.values.dims)} values for {indices.shape} indices.")
    if len(indices) and (indices[0] < 0 or indices[-1] >= cells or (indices[1:] <= indices[:-1]).any()):
        raise ArtifactError(f"{where}: sparse indices must be sorted, unique and inside {dims}.")
    return cells * ELEMENT_BYTES[sparse.values.data_type]
