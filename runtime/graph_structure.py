"""What the graphs of an artifact may consist of: operators, attributes, names and numbers of parts.

Only listed operators are allowed. Each is standard, gives the same output for the same inputs, and gives one whose size
follows from the sizes of its inputs and from constants, which is what lets `runtime.graph_sizes` bound the memory that
a graph takes before an engine runs it. Left out are control flow, sequences, optionals, strings, random numbers,
recurrent networks, outputs whose size depends on values (NonZero, Unique, Compress, NonMaxSuppression), and reads and
writes at computed places (GatherND, Scatter*, GridSample, RoiAlign), in which engines have had memory errors.
"""

from collections.abc import Iterable

import onnx
from onnx import AttributeProto

from runtime.errors import ArtifactError

OPSET = 17
IR_VERSIONS = (3, 9)
"""Lowest (the first with opsets) and highest `ir_version`: the highest that all supported releases of ONNX know."""
MAX_NODES = 100_000
MAX_NAME = 1000
"""Longest name of a tensor or a node, characters."""
MAX_ATTRIBUTE = 65_536
"""Most numbers, or bytes of text, in one attribute that is no tensor."""

_OPERATORS = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift Cast Ceil Celu
    Clip Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear
    Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    LpPool MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg Not Or PRelu Pad Pow
    QLinearConv QLinearMatMul QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round Selu Shape Shrink Sigmoid Sign Sin
    Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile
    Transpose Trilu Unsqueeze Where Xor
"""
OPERATORS = frozenset(_OPERATORS.split())
"""Operators that a graph may hold."""

ATTRIBUTE_FIELDS = {
    AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.STRING: "s", AttributeProto.TENSOR: "t",
    AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints", AttributeProto.SPARSE_TENSOR: "sparse_tensor",
}  # fmt: skip
"""Types of attributes that a node may have, with the field that holds the value. All else is refused."""


def check_structure(model: onnx.ModelProto, where: str) -> None:
    """Raise ArtifactError unless a graph consists of allowed parts only, in sane numbers, each with its own name."""
    if any(entry.domain for entry in model.opset_import) or [entry.version for entry in model.opset_import] != [OPSET]:
        raise ArtifactError(f"{where}: only the standard ONNX operators of opset {OPSET} are allowed.")
    lowest, highest = IR_VERSIONS
    if not lowest <= model.ir_version <= highest:
        raise ArtifactError(f"{where}: ir_version {model.ir_version} is not one of {lowest} to {highest}.")
    graph = model.graph
    if model.functions or graph.sparse_initializer or model.training_info or graph.quantization_annotation:
        raise ArtifactError(
            f"{where}: local functions and sparse initializers are not allowed, nor is information for training or "
            "quantization."
        )
    if len(graph.node) > MAX_NODES:
        raise ArtifactError(f"{where}: {len(graph.node)} nodes exceed the limit of {MAX_NODES}.")
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.WhichOneof("value") not in (None, "tensor_type"):
            raise ArtifactError(f"{where}: {info.name[:100]!r} is not a tensor.")
    for node in graph.node:
        _check_node(node, where)
    made = [name for node in graph.node for name in node.output if name]
    _check_names([info.name for info in graph.input], [tensor.name for tensor in graph.initializer], made, where)


def _check_node(node: onnx.NodeProto, where: str) -> None:
    what = f"{where}: operator {node.op_type[:100]}"
    names = {attribute.name for attribute in node.attribute}
    for attribute in node.attribute:
        if attribute.HasField("g") or attribute.graphs:
            raise ArtifactError(f"{what} holds a subgraph, which is not allowed.")
        found = {field.name for field, _ in attribute.ListFields()} - {"name", "type", "doc_string"}
        value = ATTRIBUTE_FIELDS.get(attribute.type)
        if value is None or not found <= {value} or (value == "sparse_tensor") != (attribute.name == "sparse_value"):
            raise ArtifactError(f"{what} has an attribute {attribute.name[:100]!r} of a kind that is not allowed.")
        if max(len(attribute.s), len(attribute.ints), len(attribute.floats)) > MAX_ATTRIBUTE:
            raise ArtifactError(f"{what} has an attribute {attribute.name[:100]!r} longer than {MAX_ATTRIBUTE}.")
    if len(names) != len(node.attribute):
        raise ArtifactError(f"{what} has an attribute twice.")
    if node.op_type not in OPERATORS or node.domain:
        raise ArtifactError(
            f"{what} is not one of the operators that an artifact may use; docs/artifact.md lists them. "
            "Write the network with those."
        )
    if node.op_type == "Constant" and len(node.output) != 1:
        raise ArtifactError(f"{where}: a constant has {len(node.output)} outputs instead of 1.")
    if ("sparse_value" in names) > (node.op_type == "Constant") or (node.op_type == "Constant" and len(names) != 1):
        raise ArtifactError(f"{what} has not exactly the attributes of a constant.")


def _check_names(inputs: Iterable[str], initializers: Iterable[str], made: Iterable[str], where: str) -> None:
    """Every tensor is named once: a constant with the name of an input would stand for it."""
    seen: set[str] = set()
    for name in (*inputs, *initializers, *made):
        if not name or len(name) > MAX_NAME:
            raise ArtifactError(f"{where}: the name of a tensor has {len(name)} characters, not 1 to {MAX_NAME}.")
        if name in seen:
            raise ArtifactError(f"{where}: the tensor {name!r} is defined twice.")
        seen.add(name)
