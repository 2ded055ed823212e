"""Shapes of all tensors of a graph for one example, without running it.

Exported graphs compute the shape of a reshape from that of a tensor, by operators on tiny integer tensors that the
shape inference of ONNX leaves alone. So nodes are taken one by one: what depends on known values only is computed by
ONNX's own reference, for the rest the shape of the output is inferred from those of the inputs and from known values.
"""

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TypeProto, numpy_helper
from onnx.reference import ReferenceEvaluator

MOST_VALUES = 256
"""Tensors of more values say nothing about shapes, and are not computed."""

COMPUTED = frozenset((
    "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Gather", "Greater", "Identity", "Less", "Mod", "Mul",
    "Not", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where",
))  # fmt: skip
"""Operators by which graphs compute shapes. Of these only ConstantOfShape makes much of little; it is bounded."""


def tensor_shapes(model: onnx.ModelProto, *, tokens: int = 1) -> dict[str, tuple[int, ...]]:
    """Shapes by name, for one row of inputs in which every other open axis has length `tokens`.

    A tensor whose shape does not follow from that has no entry. Expects a graph that `check_graph` has passed.
    """
    opset = model.opset_import[0].version
    types: dict[str, TypeProto] = {}
    values: dict[str, onnx.TensorProto] = {}
    for value in model.graph.input:
        types[value.name] = _closed(value.type, tokens)
    for tensor in model.graph.initializer:
        _know(tensor.name, tensor, types, values)
    for node in model.graph.node:
        try:
            outputs = list(_outputs(node, opset, types, values))
        except Exception:  # whatever a graph provokes in ONNX: nothing is known of this node, nor of what depends on it
            continue
        for name, output in zip(node.output, outputs, strict=False):
            if isinstance(output, TypeProto):
                types[name] = output
            else:
                _know(name, output, types, values)
    shapes = {name: _shape(known) for name, known in types.items()}
    return {name: shape for name, shape in shapes.items() if shape is not None}


Outputs = Iterator[TypeProto | onnx.TensorProto]


def _outputs(
    node: onnx.NodeProto, opset: int, types: dict[str, TypeProto], values: dict[str, onnx.TensorProto]
) -> Outputs:
    """What is known of the outputs of a node: values, or else types, or else nothing."""
    inputs = [name for name in node.input if name]
    if node.op_type == "Constant":
        yield from _constant(node)
    elif node.op_type == "Shape" and not node.attribute and (shape := _shape(types.get(node.input[0]))) is not None:
        yield numpy_helper.from_array(np.array(shape, dtype=np.int64))
    elif node.op_type in COMPUTED and all(name in values for name in inputs) and _is_small(node, values):
        feeds = {name: numpy_helper.to_array(values[name]) for name in inputs}
        with np.errstate(all="raise"):
            arrays = ReferenceEvaluator(node, opsets={"": opset}).run(None, feeds)
        yield from (numpy_helper.from_array(np.asarray(array)) for array in arrays)
    elif all(name in types for name in inputs):
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        known = {name: values[name] for name in inputs if name in values}
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, node, {name: types[name] for name in inputs}, known,
            opset_imports=[onnx.helper.make_opsetid("", opset)],
        )  # fmt: skip
        yield from (inferred[name] for name in node.output if name in inferred)


def _constant(node: onnx.NodeProto) -> Outputs:
    attribute = node.attribute[0]
    if attribute.name == "sparse_value":
        sparse = attribute.sparse_tensor
        yield onnx.helper.make_tensor_type_proto(sparse.values.data_type, list(sparse.dims))
    elif attribute.name == "value":
        yield attribute.t
    elif attribute.name in ("value_int", "value_ints"):
        yield numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(attribute)))


def _is_small(node: onnx.NodeProto, values: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type != "ConstantOfShape":
        return True
    sizes = numpy_helper.to_array(values[node.input[0]])
    return math.prod(map(int, sizes)) <= MOST_VALUES


def _know(
    name: str, tensor: onnx.TensorProto, types: dict[str, TypeProto], values: dict[str, onnx.TensorProto]
) -> None:
    types[name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    if math.prod(tensor.dims) <= MOST_VALUES:
        values[name] = tensor


def _closed(kind: TypeProto, tokens: int) -> TypeProto:
    """The type of an input with sizes for its open axes: one row, and `tokens` for all others."""
    sizes = kind.tensor_type.shape.dim
    shape = [
        size.dim_value if size.HasField("dim_value") else 1 if axis == 0 else tokens for axis, size in enumerate(sizes)
    ]
    return onnx.helper.make_tensor_type_proto(kind.tensor_type.elem_type, shape)


def _shape(kind: TypeProto | None) -> tuple[int, ...] | None:
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    sizes = kind.tensor_type.shape.dim
    return tuple(size.dim_value for size in sizes) if all(size.HasField("dim_value") for size in sizes) else None
