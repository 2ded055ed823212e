"""Artifacts gone wrong: seeded mutations of manifests, graphs, tensors and tokenizers, with hashes that still agree.

Content = dict[str, bytes]      # the files of an artifact by name
"""

import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.onnx_ml_pb2 import ModelProto

from runtime.graph_structure import OPERATORS
from runtime.manifest import MANIFEST, REFERENCE

Content = dict[str, bytes]

INTEGERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 16, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 2**31, 2**63, 2**64, 10**300, 0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"),
    "", "x", "../secret", "/etc/passwd", "trunk.onnx", "manifest.json", "a\0b", "\ud800", "x" * 5000, "batch", "tokens",
    [], {}, [[]], ["batch"], ["batch", 1], [0] * 300, {"kind": "text"}, {"x": 1},
)  # fmt: skip


def mutate(content: Content, seed: int) -> Content:
    """Return a damaged copy of an artifact; the same seed gives the same damage."""
    dice = random.Random(seed)
    content = dict(content)
    graphs = sorted(name for name in content if name.endswith(".onnx"))
    others = [name for name in content if name not in (*graphs, MANIFEST)]
    kind = dice.choice(["manifest", "manifest", "bytes", "graph", "graph", "graph", "graph", "others"])
    if kind == "manifest":
        content[MANIFEST] = _mutated_manifest(content[MANIFEST], dice)
        return content
    name = dice.choice(graphs if kind == "graph" else others if kind == "others" else [*graphs, *others])
    if kind == "graph":
        content[name] = _mutated_graph(content[name], dice)
    elif kind == "bytes":
        content[name] = mutated_bytes(content[name], dice)
    elif name == REFERENCE:
        content[name] = _mutated_safetensors(content[name], dice)
    else:
        content[name] = _mutated_json(content[name], dice)
    return rehashed(content)


def rehashed(content: Content) -> Content:
    """Make the manifest's sizes and hashes those of the files."""
    document = json.loads(content[MANIFEST])
    for name, entry in document["files"].items():
        entry.update(bytes=len(content[name]), sha256=sha256(content[name]).hexdigest())
    return {**content, MANIFEST: json.dumps(document).encode()}


def mutated_bytes(content: bytes, dice: random.Random) -> bytes:
    """Flip, cut, insert or repeat some bytes."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(changed) + 1) if dice.random() < 0.5 else dice.randrange(min(len(changed), 200) + 1)
        match dice.randrange(4):
            case 0:
                changed[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                del changed[at : at + dice.choice([1, 4, 100, len(changed)])]
            case 2:
                changed[at:at] = dice.randbytes(dice.choice([1, 4, 40]))
            case _:
                changed[at:at] = changed[at : at + dice.choice([1, 10, 200])]
    return bytes(changed)


def _mutated_manifest(content: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.2:
        return mutated_bytes(content, dice)
    if dice.random() < 0.1:
        return content.replace(b'"name"', b'"name": "twice", "name"', 1)
    return _mutated_json(content, dice)


def _mutated_json(content: bytes, dice: random.Random) -> bytes:
    document = json.loads(content)
    for _ in range(dice.randint(1, 3)):
        _mutate_value(document, dice)
    return json.dumps(document).encode()


def _mutate_value(document: Any, dice: random.Random) -> None:
    """Walk down to some value, and replace, delete, double or exchange it."""
    parent: Any = document
    while True:
        if not parent:
            return
        key = dice.choice(list(parent)) if isinstance(parent, dict) else dice.randrange(len(parent))
        if not isinstance(parent[key], dict | list) or not parent[key] or dice.random() < 0.15:
            break
        parent = parent[key]
    match dice.randrange(6):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, list):
            parent.insert(key, parent[key])
        case 1 | 2 if isinstance(parent, dict):
            parent[dice.choice(["x", "name", "file", "../x", "manifest.json"])] = parent[key]
        case 3 if isinstance(parent[key], int) and not isinstance(parent[key], bool):
            parent[key] += dice.choice([-1, 1, 2**32])
        case _:
            parent[key] = dice.choice(VALUES)


def _mutated_safetensors(content: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.3:
        return mutated_bytes(content, dice)
    [size] = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    name = dice.choice(sorted(header))
    entry = header[name]
    if dice.random() < 0.3:
        data = bytearray(content[8 + size :])
        first, last = entry["data_offsets"]
        at = first + dice.randrange((last - first) // 8) * 8
        data[at : at + 8] = dice.choice([dice.randbytes(8), b"\xff" * 8, struct.pack("<q", dice.choice(INTEGERS))])
        return content[: 8 + size] + bytes(data)
    match dice.randrange(4):
        case 0:
            entry["shape"] = [dice.choice([0, 1, 2**31, 2**40, *entry["shape"]]) for _ in range(dice.randrange(5))]
        case 1:
            entry["shape"] = entry["shape"][::-1]
        case 2:
            entry["dtype"] = dice.choice(["F64", "F16", "BF16", "I64", "I32", "BOOL", "F8_E5M2", "C64", "X"])
        case _:
            _mutate_value(header, dice)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _mutated_graph(content: bytes, dice: random.Random) -> bytes:
    model = ModelProto()
    model.ParseFromString(content)
    for _ in range(dice.randint(1, 2)):
        with suppress(ValueError, IndexError, TypeError, MemoryError):  # what an earlier one has made impossible
            dice.choice(GRAPH_MUTATIONS)(model, dice)
    return model.SerializeToString()


def _tensor(model: ModelProto, dice: random.Random) -> TensorProto:
    """Some constant: an initializer, or the value, the values or the indices of a `Constant`."""
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            if attribute.HasField("sparse_tensor"):
                tensors += [attribute.sparse_tensor.values, attribute.sparse_tensor.indices]
    return dice.choice(tensors)


def _node(model: ModelProto, dice: random.Random) -> NodeProto:
    computing = [node for node in model.graph.node if node.op_type != "Constant"]
    return dice.choice(computing or list(model.graph.node))


def _names(model: ModelProto) -> list[str]:
    made = [name for node in model.graph.node for name in node.output]
    return [*(info.name for info in model.graph.input), *(tensor.name for tensor in model.graph.initializer), *made]


def _resize(model: ModelProto, dice: random.Random) -> None:
    """Give a constant other sizes, with as many bytes as they call for where that is little."""
    tensor = _tensor(model, dice)
    sizes = list(tensor.dims) or [1]
    sizes[dice.randrange(len(sizes))] = dice.choice([0, 1, 2, 3, 5, 8, 31, *INTEGERS])
    tensor.dims[:] = sizes
    cells = int(np.prod([float(size) for size in sizes]))
    if 0 <= cells < 100_000 and tensor.HasField("raw_data"):
        width = 8 if tensor.data_type == TensorProto.INT64 else 4
        tensor.raw_data = (tensor.raw_data + bytes(width * cells))[: width * cells]


def _integers(model: ModelProto, dice: random.Random) -> None:
    """Change axes, shapes or indices."""
    tensors = [t for t in (_tensor(model, dice) for _ in range(20)) if t.data_type == TensorProto.INT64]
    if tensors:
        array = numpy_helper.to_array(tensors[0]).copy()
        if array.size:
            array.flat[dice.randrange(array.size)] = dice.choice(INTEGERS)
            tensors[0].CopyFrom(numpy_helper.from_array(array, tensors[0].name))


def _sparse(model: ModelProto, dice: random.Random) -> None:
    found = [a.sparse_tensor for node in model.graph.node for a in node.attribute if a.HasField("sparse_tensor")]
    if not found:
        return
    sparse = dice.choice(found)
    match dice.randrange(3):
        case 0:
            sparse.dims[dice.randrange(len(sparse.dims))] = dice.choice(INTEGERS)
        case 1:
            indices = numpy_helper.to_array(sparse.indices).copy()
            indices[dice.randrange(len(indices))] = dice.choice(INTEGERS)
            sparse.indices.CopyFrom(numpy_helper.from_array(indices, sparse.indices.name))
        case _:
            sparse.dims[:] = dice.sample(list(sparse.dims), len(sparse.dims))


def _operator(model: ModelProto, dice: random.Random) -> None:
    _node(model, dice).op_type = dice.choice([*sorted(OPERATORS), "If", "Loop", "NonZero", "RandomNormal", "Explode"])


def _plausible(model: ModelProto, dice: random.Random) -> None:
    """Put an operator of one input behind another: most often that is a good graph, which engines then run."""
    position = dice.randrange(len(model.graph.node))
    node = model.graph.node[position]
    node.output[0], made = "before", node.output[0]
    model.graph.node.insert(position + 1, helper.make_node(dice.choice(PLAUSIBLE), ["before"], [made]))


def _attribute(model: ModelProto, dice: random.Random) -> None:
    node = _node(model, dice)
    if node.attribute and dice.random() < 0.7:
        attribute = dice.choice(list(node.attribute))
        match dice.randrange(4):
            case 0:
                attribute.i = dice.choice(INTEGERS)
            case 1 if attribute.ints:
                attribute.ints[dice.randrange(len(attribute.ints))] = dice.choice(INTEGERS)
            case 2:
                node.attribute.remove(attribute)
            case _:
                kind: Any = dice.randrange(15)
                attribute.type = kind
    else:
        name = dice.choice(["axis", "axes", "group", "pads", "strides", "dilations", "kernel_shape", "to", "perm"])
        value = dice.choice([dice.choice(INTEGERS), [dice.choice(INTEGERS) for _ in range(dice.randrange(1, 5))]])
        node.attribute.append(helper.make_attribute(name, value))


def _wiring(model: ModelProto, dice: random.Random) -> None:
    node = _node(model, dice)
    match dice.randrange(5):
        case 0 if node.input:
            node.input[dice.randrange(len(node.input))] = dice.choice(_names(model))
        case 1:
            node.input.append(dice.choice([*_names(model), ""]))
        case 2 if node.input:
            del node.input[dice.randrange(len(node.input))]
        case 3:
            node.output.append(dice.choice(["more", "", *_names(model)]))
        case _:
            node.output[0] = dice.choice(_names(model))


def _nodes(model: ModelProto, dice: random.Random) -> None:
    index = dice.randrange(len(model.graph.node))
    match dice.randrange(3):
        case 0:
            del model.graph.node[index]
        case 1:
            model.graph.node.append(model.graph.node[index])
        case _:
            nodes = list(model.graph.node)
            dice.shuffle(nodes)
            del model.graph.node[:]
            model.graph.node.extend(nodes)


def _insert(model: ModelProto, dice: random.Random) -> None:
    """Put an operator behind another, of one or two inputs, in place of what it reads."""
    position = dice.randrange(len(model.graph.node))
    node = model.graph.node[position]
    if not node.input:
        return
    at = dice.randrange(len(node.input))
    model.graph.initializer.append(
        numpy_helper.from_array(
            np.array([dice.choice(INTEGERS) for _ in range(dice.randrange(1, 5))], dtype=np.int64), "numbers"
        )
    )
    read = [node.input[at], *dice.sample(["numbers", *_names(model)], dice.randrange(3))]
    extra = helper.make_node(dice.choice(sorted(OPERATORS - {"Constant"})), read, ["inserted"])
    node.input[at] = "inserted"
    model.graph.node.insert(position, extra)


def _signature(model: ModelProto, dice: random.Random) -> None:
    infos = [*model.graph.input, *model.graph.output]
    tensor = dice.choice(infos).type.tensor_type
    match dice.randrange(4):
        case 0:
            tensor.elem_type = dice.randrange(20)
        case 1 if tensor.shape.dim:
            tensor.shape.dim[dice.randrange(len(tensor.shape.dim))].dim_value = dice.choice(INTEGERS)
        case 2:
            tensor.shape.dim.add().dim_value = 1
        case _:
            dice.choice(infos).name = dice.choice(_names(model))


def _external(model: ModelProto, dice: random.Random) -> None:
    tensor = _tensor(model, dice)
    tensor.ClearField("raw_data")
    if dice.random() < 0.7:
        tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=dice.choice(["../secret", "/etc/passwd", "manifest.json"]))


def _nested(model: ModelProto, dice: random.Random) -> None:
    """Subgraphs in subgraphs."""
    graph = GraphProto(name="innermost")
    for _ in range(dice.choice([1, 10, 25])):
        outer = GraphProto(name="outer")
        outer.node.append(
            NodeProto(op_type="If", attribute=[AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=graph)])
        )
        graph = outer
    _node(model, dice).attribute.append(
        AttributeProto(name="body", type=dice.choice([AttributeProto.INT, AttributeProto.GRAPH]), g=graph)
    )


def _type(model: ModelProto, dice: random.Random) -> None:
    _tensor(model, dice).data_type = dice.randrange(22)


def _model(model: ModelProto, dice: random.Random) -> None:
    match dice.randrange(4):
        case 0:
            model.ir_version = dice.choice([0, 1, 3, 9, 10, 2**40])
        case 1:
            model.opset_import[0].version = dice.choice([0, 1, 13, 18, 2**40])
        case 2:
            model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        case _:
            _node(model, dice).domain = "com.microsoft"


PLAUSIBLE = (
    "Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Exp", "Log", "Sqrt", "Erf", "Softplus", "Identity", "Softmax", "Hardmax",
    "HardSwish", "Celu", "Selu", "Floor", "Round", "Reciprocal", "LogSoftmax", "Dropout", "Transpose", "Sign", "Tan",
)  # fmt: skip
GRAPH_MUTATIONS: tuple[Callable[[ModelProto, random.Random], None], ...] = (
    _resize, _integers, _integers, _sparse, _operator, _operator, _attribute, _attribute, _attribute, _wiring, _wiring,
    _nodes, _insert, _insert, _insert, _plausible, _plausible, _plausible, _plausible, _plausible, _signature,
    _external, _nested, _type, _model,
)  # fmt: skip
