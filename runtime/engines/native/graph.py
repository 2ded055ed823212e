"""Understands an ONNX graph at fixed input shapes: from nodes to the operators that the planner knows.

The graph is walked once with symbols for values (symbols.py), by the rules in rules/. A symbol says what a tensor *is*
(a view of a tensor, attention scores, half a GELU), so views, scalar factors and shape arithmetic vanish, and patterns
are recognised however the exporter arranged them. What is not understood is collected and raised as one
UnsupportedModel.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from runtime.engines.native.fold import FOLD
from runtime.engines.native.operators import Operator, Tensor
from runtime.engines.native.rules import attention, axes, elementwise, layers, masks
from runtime.engines.native.symbols import Array, Mask, NotUnderstood, Ref, Symbol
from runtime.engines.native.walk import Attributes, Rule, Walk, floats
from runtime.errors import UnsupportedModel

__all__ = ["Network", "Ref", "require_known", "understand"]


@dataclass(frozen=True)
class Network:
    """Operators in order, and the tensors that are the outputs, by name."""

    operators: list[Operator]
    outputs: dict[str, Ref]
    name: str = ""
    """The file that it was read from."""


def require_known(models: Mapping[str, onnx.ModelProto]) -> None:
    """Raise UnsupportedModel that lists all operators, by file, that this engine never supports."""
    unknown = {
        file: sorted({node.op_type for node in model.graph.node} - KNOWN_OPERATORS) for file, model in models.items()
    }
    if any(unknown.values()):
        listed = "; ".join(f"{file}: {', '.join(names)}" for file, names in unknown.items() if names)
        raise UnsupportedModel(
            f"The native engine does not support these operators: {listed}. Use another engine, such as onnxruntime."
        )


def understand(
    model: onnx.ModelProto, constants: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], where: str
) -> Network:
    """Walk a graph whose inputs have these shapes. Raises UnsupportedModel that lists all nodes not understood."""
    walk = Walk(constants, shapes, model)
    problems = []
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        if any(name and name not in walk.symbols for name in node.input):
            continue  # follows from a problem that is already listed
        try:
            walk.symbols.update(zip(node.output, _understand_node(walk, node), strict=True))
        except NotUnderstood as problem:
            problems.append(f"{node.op_type} {node.name or node.output[0]} ({problem})")
    outputs = {}
    for output in model.graph.output:
        if output.name not in walk.symbols:
            continue
        try:
            outputs[output.name] = _leaving(walk, walk.symbols[output.name])
        except NotUnderstood as problem:
            problems.append(f"output {output.name} ({problem})")
    if problems:
        raise UnsupportedModel(
            f"{where}: the native engine does not support {'; '.join(problems)}. Use another engine, such as "
            "onnxruntime."
        )
    return Network(_needed(walk.operators, {ref.tensor for ref in outputs.values()}), outputs, where)


def _understand_node(walk: Walk, node: onnx.NodeProto) -> tuple[Symbol, ...]:
    """Return what the outputs of a node are. Rules see the number of outputs as attribute `outputs`."""
    attributes: Attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    inputs = [walk.symbols[name] for name in node.input if name]
    kind = node.op_type
    arrays = [symbol for symbol in inputs if isinstance(symbol, np.ndarray)]
    found: Symbol | tuple[Symbol, ...]
    if kind not in RULES and kind not in FOLD and kind not in masks.ELEMENTWISE and kind != "Shape":
        raise NotUnderstood("an operator that is not known")
    if kind == "Shape":
        if not hasattr(inputs[0], "shape"):
            raise NotUnderstood("of something that is not a plain tensor")
        found = np.array(inputs[0].shape, dtype=np.int64)
    elif len(arrays) == len(inputs) and kind in FOLD:
        found = np.asarray(FOLD[kind](attributes, arrays))
    elif masks.takes(kind, inputs):
        found = masks.compute(kind, attributes, inputs)
    elif kind == "Gather" and isinstance(inputs[0], np.ndarray) and isinstance(inputs[1], Mask):
        found = layers.embedding(walk, node.output[0], floats(inputs[0], "the table"), inputs[1], attributes)
    elif kind in RULES:
        found = RULES[kind](walk, node.output[0], {**attributes, "outputs": len(node.output)}, inputs)
    else:
        raise NotUnderstood("only of constants and masks")
    results = found if isinstance(found, tuple) else (found,)
    if len(results) != len(node.output):
        raise NotUnderstood("with more than one output")
    return results


def _leaving(walk: Walk, symbol: Symbol) -> Ref:
    """Return an output as a whole tensor with its axes in an order that can be read."""
    ref = walk.plain(symbol)
    if not ref.axes and ref.tensor.space.lanes == 1:
        ref = walk.average(f"{ref.tensor.name} as rows", ref, ref.view)
    if not ref.axes:
        raise NotUnderstood(f"axes {list(ref.shape)} that are neither NC, NTC nor NCHW")
    return ref


def _needed(operators: list[Operator], wanted: set[Tensor]) -> list[Operator]:
    """Operators that the wanted tensors depend on."""
    kept = []
    for operator in reversed(operators):
        if operator.output in wanted:
            kept.append(operator)
            wanted |= set(operator.inputs)
    return kept[::-1]


RULES: dict[str, Rule] = {
    "Add": elementwise.add,
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_norm,
    "Cast": axes.cast,
    "Clip": elementwise.clip,
    "Concat": axes.concat,
    "Conv": layers.convolution,
    "Div": elementwise.divide,
    "Erf": elementwise.error_function,
    "Expand": axes.expand,
    "Flatten": axes.flatten,
    "Gather": axes.gather,
    "Gemm": layers.gemm,
    "GlobalAveragePool": layers.global_average_pool,
    "Identity": axes.identity,
    "IsNaN": attention.is_nan,
    "LayerNormalization": layers.layer_norm,
    "MatMul": elementwise.product_of_matrices,
    "Max": elementwise.clip,
    "MaxPool": layers.max_pool,
    "Mul": elementwise.multiply,
    "Neg": elementwise.negate,
    "Pow": elementwise.power,
    "ReduceMean": layers.reduce_mean,
    "ReduceSum": layers.reduce_sum,
    "Relu": elementwise.activation("relu"),
    "Reshape": axes.reshape,
    "Sigmoid": elementwise.activation("sigmoid"),
    "Slice": axes.slice_,
    "Softmax": attention.softmax,
    "Split": axes.split,
    "Sqrt": elementwise.root,
    "Squeeze": axes.squeeze,
    "Sub": elementwise.subtract,
    "Tanh": elementwise.tanh,
    "Transpose": axes.transpose,
    "Unsqueeze": axes.unsqueeze,
    "Where": attention.where,
}
"""What each operator means where its inputs are not all constants or masks."""

KNOWN_OPERATORS = {"Constant", "Shape", *FOLD, *RULES, *masks.ELEMENTWISE}
