"""One PyTorch stage (trunk or head) -> one ONNX graph whose weights keep their names and their zeros."""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from runtime.graph import OPSET

Array = NDArray[np.generic]

SPARSE_BELOW = 1 / 3
"""Density under which the sparse form is smaller in fp32: 12 bytes for each kept weight against 4 for each."""
IR_VERSION = 8


@dataclass(frozen=True)
class Weight:
    """A weight of a graph under the sparsity budget: its mask in the layout that the graph uses, None if kept whole."""

    name: str
    mask: NDArray[np.bool_] | None


def trace(
    stage: nn.Module,
    example: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
) -> onnx.ModelProto:
    """Export a stage in evaluation mode. Parameters become initializers of the same name; nothing is folded yet."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter announces its successor, which needs an onnx that DeepSparse cannot live with.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            stage,
            tuple(example),
            buffer,  # type: ignore[arg-type]  # a file object is documented and works
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in dynamic.items()},
            opset_version=OPSET,
            dynamo=False,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    model = onnx.load_from_string(buffer.getvalue())
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version, model.doc_string = "neurotrails", "", ""
    for node in model.graph.node:
        node.doc_string = ""
    return model


def own_weights(model: onnx.ModelProto) -> None:
    """Give every parameter an initializer of its own: the exporter replaces equal ones by `Identity` of the first."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Identity" and node.input[0] in initializers]:
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(initializers[node.input[0]])
        tensor.name = node.output[0]
        model.graph.node.remove(node)


def transpose_weights(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Replace `Transpose(initializer)` by the transposed initializer; return the permutation by initializer name."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    permutations: dict[str, tuple[int, ...]] = {}
    for node in [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in initializers]:
        name = node.input[0]
        permutation = tuple(helper.get_attribute_value(node.attribute[0]))
        if len(_consumers(model, name)) > 1:
            continue
        array = numpy_helper.to_array(initializers[name]).transpose(permutation)
        initializers[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
        permutations[name] = permutation
        _replace_input(model, node.output[0], name)
        model.graph.node.remove(node)
    return permutations


def fold_norms(model: onnx.ModelProto) -> int:
    """Fold each BatchNormalization whose only producer is a Conv with no other consumer into it; return how many.

    Zeros of the weight stay zero: each output channel is scaled as a whole.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    folded = 0
    for norm in [node for node in model.graph.node if node.op_type == "BatchNormalization"]:
        conv = producers.get(norm.input[0])
        if conv is None or conv.op_type != "Conv" or len(_consumers(model, conv.output[0])) != 1:
            continue
        if len(_consumers(model, conv.input[1])) != 1:
            continue
        gamma, beta, mean, variance = (
            numpy_helper.to_array(initializers[name]).astype(np.float64) for name in norm.input[1:5]
        )
        epsilon = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), 1e-5)
        scale = gamma / np.sqrt(variance + epsilon)
        weight = numpy_helper.to_array(initializers[conv.input[1]])
        bias = numpy_helper.to_array(initializers[conv.input[2]]) if len(conv.input) > 2 else np.zeros(len(scale))
        _set(initializers[conv.input[1]], (weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32))
        name = conv.input[2] if len(conv.input) > 2 else conv.input[1].removesuffix(".weight") + ".bias"
        tensor = numpy_helper.from_array(((bias - mean) * scale + beta).astype(np.float32), name)
        if len(conv.input) > 2:
            initializers[name].CopyFrom(tensor)
        else:
            model.graph.initializer.append(tensor)
            conv.input.append(name)
        conv.output[0] = norm.output[0]
        model.graph.node.remove(norm)
        folded += 1
    _drop_unused(model)
    return folded


def make_sparse(model: onnx.ModelProto, weights: Sequence[Weight]) -> None:
    """Turn each masked weight below the break-even density into a `Constant` with `sparse_value`.

    The entries are those kept by the mask, so an active weight that is exactly zero is listed too.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = []
    for weight in weights:
        if weight.mask is None or weight.mask.mean() >= SPARSE_BELOW:
            continue
        tensor = initializers[weight.name]
        constants.append(sparse_constant(weight.name, numpy_helper.to_array(tensor), weight.mask))
        model.graph.initializer.remove(tensor)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*constants, *nodes])


def sparse_constant(name: str, array: Array, mask: NDArray[np.bool_]) -> onnx.NodeProto:
    """A `Constant` node with `sparse_value` that lists the entries of `array` kept by `mask`, zeros among them too."""
    indices = np.flatnonzero(mask).astype(np.int64)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(array.ravel()[indices], f"{name}.values"),
        numpy_helper.from_array(indices, f"{name}.indices"),
        list(array.shape),
    )
    node: onnx.NodeProto = helper.make_node("Constant", [], [name], name=f"{name}.constant", sparse_value=sparse)
    return node


def _set(tensor: TensorProto, array: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def _consumers(model: onnx.ModelProto, name: str) -> list[str]:
    """Nodes (and graph outputs) that read a tensor."""
    readers = [node.name for node in model.graph.node for read in node.input if read == name]
    return readers + [output.name for output in model.graph.output if output.name == name]


def _replace_input(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
