"""The graphs of an artifact against its manifest: inputs, outputs, and the memory that running them takes.

models = load_stages(artifact)      # ModelProto by file, every one checked

Sizes of all tensors are inferred node by node, at the real sizes of the inputs. Shapes that a graph computes itself are
computed along, so a size that depends on anything else than shapes and constants is found, and refused.
"""

import math

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from runtime.artifact import Artifact
from runtime.errors import ArtifactError
from runtime.graph import ELEMENT_BYTES, load_graph
from runtime.graph_structure import OPSET
from runtime.manifest import Manifest, Stage, TensorSpec, TextPreprocessing

CHECKED_ROWS = 16
"""Rows of a batch that memory is bounded for: the largest that engines compile unless told otherwise."""
MAX_WORK_BYTES = 16 * 2**30
"""Most bytes of tensors alive at once while a batch of `CHECKED_ROWS` runs, constants left out."""
MAX_TENSOR_BYTES = 4 * 2**30
"""Most bytes of one tensor in that batch."""
MAX_SHAPE_VALUES = 1024
"""Tensors of at most that many values are computed along, as they may be shapes."""
MAX_POSITIONS = 65_536
"""The same for integers: the longest text."""
MAX_RANK = 16

_SHAPE_OPERATORS = """
    Add Cast Ceil Concat ConstantOfShape Div Equal Expand Flatten Floor Gather GatherElements Greater GreaterOrEqual
    Identity Less LessOrEqual Max Min Mod Mul Neg Not Range ReduceMax ReduceMin ReduceProd ReduceSum Reshape Slice
    Split Squeeze Sub Transpose Unsqueeze Where
"""
SHAPE_OPERATORS = frozenset(_SHAPE_OPERATORS.split())
"""Operators that graphs compute shapes with, beside Shape and Size."""

ELEMENT_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8}
Array = NDArray[np.generic]


def load_stages(artifact: Artifact) -> dict[str, onnx.ModelProto]:
    """Read and check all graphs of an artifact, by file name. Raises ArtifactError."""
    models, _ = load_with_limits(artifact)
    return models


def load_with_limits(artifact: Artifact) -> tuple[dict[str, onnx.ModelProto], dict[str, int]]:
    """As `load_stages`; also return, by model input that indexes a table, the rows of the (smallest) table.

    An index beyond it ends the process in at least one engine.
    """
    models: dict[str, onnx.ModelProto] = {}
    limits: dict[str, int] = {}
    for stage in artifact.manifest.stages:
        path = artifact.path(stage.file)
        models[stage.file] = load_graph(path)
        for name, rows in check_stage(models[stage.file], artifact.manifest, stage, str(path)).items():
            limits[name] = min(rows, limits.get(name, rows))
    return models, limits


def check_stage(model: onnx.ModelProto, manifest: Manifest, stage: Stage, where: str) -> dict[str, int]:
    """Return the rows of the tables that model inputs index, by input.

    Raise ArtifactError unless a graph that passed `check_graph` has the manifest's inputs and outputs, in size too.

    They are compared for one row and for `CHECKED_ROWS`, and for the shortest and the longest text. Memory is bounded
    at the largest of these.
    """
    specs = {spec.name: spec for spec in (*manifest.inputs, *manifest.features)}
    if stage in manifest.heads:
        logits = stage.outputs[0]
        specs[logits] = TensorSpec(name=logits, dtype="float32", shape=("batch", len(manifest.labels)))
    _check_signature(model, stage, specs, where)
    preprocessing = manifest.preprocessing
    lengths = preprocessing.lengths if isinstance(preprocessing, TextPreprocessing) else (1,)
    model_inputs = {spec.name for spec in manifest.inputs}
    limits: dict[str, int] = {}
    for rows, tokens in sorted({(1, lengths[0]), (CHECKED_ROWS, lengths[-1])}):
        shapes = {name: _sizes(specs[name], rows, tokens) for name in stage.inputs}
        sizes = _Sizes(model, shapes, where, model_inputs)
        limits = sizes.limits
        for name in stage.outputs:
            expected = _type(ELEMENT_TYPES[specs[name].dtype], _sizes(specs[name], rows, tokens))
            found = sizes.types.get(name)
            if found is None:
                raise ArtifactError(f"{where}: no operator computes the output {name!r}.")
            if _plain(found) != _plain(expected):
                raise ArtifactError(
                    f"{where}: output {name!r} has shape {_dims(found)} for {rows} rows, the manifest says "
                    f"{specs[name].dtype} {_dims(expected)}."
                )
    return limits


def _check_signature(model: onnx.ModelProto, stage: Stage, specs: dict[str, TensorSpec], where: str) -> None:
    """Compare names, types and declared axes."""
    for what, infos, names in (
        ("inputs", model.graph.input, stage.inputs),
        ("outputs", model.graph.output, stage.outputs),
    ):
        found = tuple(info.name for info in infos)
        if found != names:
            raise ArtifactError(f"{where}: the graph has the {what} {found}, the manifest says {names}.")
        for info in infos:
            spec, tensor = specs[info.name], info.type.tensor_type
            dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
            expected = [size if isinstance(size, int) else None for size in spec.shape]
            if tensor.elem_type != ELEMENT_TYPES[spec.dtype] or (what == "inputs" and dims != expected):
                raise ArtifactError(
                    f"{where}: {info.name!r} has type {tensor.elem_type} and axes {dims}, the manifest says "
                    f"{spec.dtype} {list(spec.shape)}."
                )


class _Sizes:
    """Types of all tensors of a graph for inputs of given shapes; raises ArtifactError for what cannot be bounded."""

    def __init__(
        self, model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], where: str, indices: set[str]
    ) -> None:
        self.where = where
        self.limits: dict[str, int] = {}
        self._may_index = indices & set(shapes)
        self.types: dict[str, TypeProto] = {}
        self.values: dict[str, Array] = {}
        self._opsets = list(model.opset_import)
        self._ir_version = model.ir_version
        for info in model.graph.input:
            self.types[info.name] = _type(info.type.tensor_type.elem_type, shapes[info.name])
        constants = {tensor.name for tensor in model.graph.initializer}
        for tensor in model.graph.initializer:
            self._constant(tensor.name, tensor)
        last = {name: index for index, node in enumerate(model.graph.node) for name in node.input}
        dying: dict[int, list[str]] = {}
        for name, index in last.items():
            dying.setdefault(index, []).append(name)
        alive = 0
        for index, node in enumerate(model.graph.node):
            if node.op_type == "Constant":
                self._add_constant(node)
                constants.add(node.output[0])
                continue
            self._infer(node)
            alive += sum(self._bytes(name) for name in node.output if name)
            if alive > MAX_WORK_BYTES:
                raise ArtifactError(
                    f"{where}: {CHECKED_ROWS} rows need more than {MAX_WORK_BYTES >> 30} GiB of memory at "
                    f"{node.op_type} {node.output[0]!r}."
                )
            alive -= sum(self._bytes(name) for name in dying.get(index, ()) if name and name not in constants)

    def _add_constant(self, node: onnx.NodeProto) -> None:
        [attribute] = node.attribute
        if attribute.name == "sparse_value":
            sparse = attribute.sparse_tensor
            self.types[node.output[0]] = _type(sparse.values.data_type, tuple(sparse.dims))
        else:
            value = helper.get_attribute_value(attribute)
            tensor = value if isinstance(value, TensorProto) else numpy_helper.from_array(_array(value))
            self._constant(node.output[0], tensor)

    def _constant(self, name: str, tensor: TensorProto) -> None:
        self.types[name] = _type(tensor.data_type, tuple(tensor.dims))
        if self._is_small(name):
            self.values[name] = numpy_helper.to_array(tensor)

    def _infer(self, node: onnx.NodeProto) -> None:
        what = f"{self.where}: {node.op_type} {node.output[0]!r}"
        read = [name for name in node.input if name]
        known = {name: self.values[name] for name in read if name in self.values}
        try:
            found = shape_inference.infer_node_outputs(
                defs.get_schema(node.op_type, OPSET, ""),
                node,
                {name: self.types[name] for name in read},
                {name: numpy_helper.from_array(np.asarray(value)) for name, value in known.items()},
                opset_imports=self._opsets,
                ir_version=self._ir_version,
            )
        except Exception as error:  # of onnx, which raises its own and others
            raise ArtifactError(f"{what} fits no input of these sizes: {error}") from error
        for name in node.output:
            if not name:
                continue
            if name not in found or not _is_static(found[name]):
                raise ArtifactError(f"{what} has a size that depends on values, which is not allowed.")
            self.types[name] = found[name]
            if self._bytes(name) > MAX_TENSOR_BYTES:
                raise ArtifactError(f"{what} of shape {_dims(found[name])} exceeds {MAX_TENSOR_BYTES >> 30} GiB.")
        if node.op_type in ("Gather", "GatherElements"):
            self._check_indices(node, what)
        self._compute(node, read, known, what)

    def _check_indices(self, node: onnx.NodeProto, what: str) -> None:
        """Indices must be known here, and in range, or be a model input as it is, whose values an engine can check."""
        table, indices = node.input
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        rows = _dims(self.types[table])[axis]
        if indices in self.values:
            found = self.values[indices].astype(np.int64)
            if found.size and not (-rows <= found.min() and found.max() < rows):
                raise ArtifactError(f"{what} reads {found.min()} to {found.max()} of {rows} rows.")
        elif indices in self._may_index:
            self.limits[indices] = min(rows, self.limits.get(indices, rows))
        else:
            raise ArtifactError(f"{what} reads at computed places, which is not allowed.")

    def _compute(self, node: onnx.NodeProto, read: list[str], known: dict[str, Array], what: str) -> None:
        """Compute what may be a shape."""
        shape = _dims(self.types[read[0]]) if read else []
        if node.op_type == "Size":
            self.values[node.output[0]] = np.array(math.prod(shape), dtype=np.int64)
        elif node.op_type == "Shape":
            bounds = {attribute.name: attribute.i for attribute in node.attribute}
            self.values[node.output[0]] = np.array(
                shape[slice(bounds.get("start", 0), bounds.get("end"))], dtype=np.int64
            )
        elif node.op_type in SHAPE_OPERATORS and len(known) == len(set(read)):
            if not all(self._is_small(name) for name in node.output):
                return
            try:
                with np.errstate(all="ignore"):
                    values = _elements(node, known) or ReferenceEvaluator(node).run(None, known)
            except Exception as error:  # of the evaluator, which raises what numpy raises
                raise ArtifactError(f"{what} cannot be computed: {error}") from error
            self.values.update(zip(node.output, map(np.asarray, values), strict=True))

    def _is_small(self, name: str) -> bool:
        """Whether a tensor is computed along: shapes, and the integers that may be positions in a text."""
        integers = self.types[name].tensor_type.elem_type == TensorProto.INT64
        return math.prod(_dims(self.types[name])) <= (MAX_POSITIONS if integers else MAX_SHAPE_VALUES)

    def _bytes(self, name: str) -> int:
        kind = self.types[name].tensor_type.elem_type
        if kind not in ELEMENT_BYTES:
            raise ArtifactError(f"{self.where}: {name!r} has a type that artifacts may not use.")
        return math.prod(_dims(self.types[name])) * ELEMENT_BYTES[kind]


def _elements(node: onnx.NodeProto, known: dict[str, Array]) -> list[Array]:
    """Compute GatherElements, which the evaluator of onnx 1.14 cannot for tables of one row; nothing for others."""
    if node.op_type != "GatherElements":
        return []
    table, places = (known[name] for name in node.input)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return [np.take_along_axis(table, places.astype(np.int64), axis)]


def _array(value: object) -> Array:
    """Value of a constant that is written as a number, or as numbers."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64)


def _sizes(spec: TensorSpec, rows: int, tokens: int) -> tuple[int, ...]:
    symbols = {"batch": rows, "tokens": tokens}
    return tuple(symbols[size] if isinstance(size, str) else size for size in spec.shape)


def _type(kind: int, shape: tuple[int, ...]) -> TypeProto:
    made: TypeProto = helper.make_tensor_type_proto(kind, list(shape))
    return made


def _dims(kind: TypeProto) -> list[int]:
    return [dim.dim_value for dim in kind.tensor_type.shape.dim]


def _plain(kind: TypeProto) -> tuple[int, list[int]]:
    return kind.tensor_type.elem_type, _dims(kind)


def _is_static(kind: TypeProto) -> bool:
    shape = kind.tensor_type.shape
    return (
        kind.WhichOneof("value") == "tensor_type"
        and kind.tensor_type.HasField("shape")
        and len(shape.dim) <= MAX_RANK
        and all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in shape.dim)
    )
