"""How often each weight of a graph is used: multiply-adds by layer, counted from the graph alone.

Counted are convolutions and linear layers, once for each position at which a weight is used; norms, biases, activation
functions and lookups in embeddings are not.

    uses = weight_uses(load_graph(path), tokens=256)       # {"blocks.0.conv1.weight": 784, ...}
    dense_macs = uses[name] * entries                      # and with kept weights only: uses[name] * kept
"""

import math
from collections.abc import Mapping

import onnx

from runtime.graph import constant_names
from runtime.shapes import tensor_shapes

PASSES_ON = frozenset(("Cast", "DequantizeLinear", "Identity", "Transpose"))
"""Operators whose output is a weight as soon as their first input is one."""


def weight_uses(model: onnx.ModelProto, *, tokens: int = 1) -> dict[str, int]:
    """At how many positions each weight is used for one example, by the names of its tensors.

    A weight that is used as it lies has one name; one that is dequantized or transposed first also has that of what
    comes out. Axes of texts have length `tokens`. A weight that is only looked up has 0 uses; a weight whose uses the
    shapes of the graph do not tell has no entry.
    """
    shapes = tensor_shapes(model, tokens=tokens)
    names = origins(model)
    uses: dict[str, int] = {}
    unknown: set[str] = set()
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name not in names or node.op_type in PASSES_ON:
                continue
            counted = _positions(node, position, shapes)
            if counted is None:
                unknown |= {name, names[name]}
            else:
                for known in {name, names[name]}:
                    uses[known] = uses.get(known, 0) + counted
    return {name: count for name, count in uses.items() if name not in unknown}


def origins(model: onnx.ModelProto) -> dict[str, str]:
    """The constant that a tensor is, but for its type, scale and layout, by tensor name; a constant is its own."""
    found = {name: name for name in constant_names(model)}
    for node in model.graph.node:
        if node.op_type in PASSES_ON and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _positions(node: onnx.NodeProto, position: int, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Positions at which `node` uses its input at `position`; None where the shape of its output is not known."""
    if (node.op_type, position) not in (("Conv", 1), ("Gemm", 1), ("MatMul", 1)):
        return 0
    out = shapes.get(node.output[0])
    if out is None:
        return None
    return math.prod(out[2:]) if node.op_type == "Conv" else math.prod(out[:-1])
