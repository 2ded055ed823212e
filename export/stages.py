"""The graphs of an artifact: every stage traced, folded, made sparse, described and audited."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.errors import ExportRefused
from export.graphs import Weight, fold_norms, make_sparse, own_weights, trace, transpose_weights
from runtime.graph import check_graph, stored_weights
from runtime.manifest import LayerSparsity, Stage, TensorSpec
from training.macs import module_macs
from training.models.multihead import MultiHeadNetwork
from training.sparsity.masks import maskable_weights

FEATURES = "features"


@dataclass(frozen=True)
class ExportedStage:
    """One graph with what the manifest says of it."""

    stage: Stage
    layers: tuple[LayerSparsity, ...]
    model: onnx.ModelProto


@dataclass(frozen=True)
class Example:
    """Model inputs to trace and count with: `inputs` by position, and the symbols of their axes by name."""

    inputs: tuple[Tensor, ...]
    specs: tuple[TensorSpec, ...]


def export_stages(
    network: MultiHeadNetwork, masks: dict[str, Tensor], example: Example, *, embeddings: bool
) -> tuple[list[ExportedStage], tuple[TensorSpec, ...]]:
    """Export trunk (if any) and heads of a network in evaluation mode; also return what passes between them."""
    covered = maskable_weights(network, embeddings=embeddings)
    with torch.no_grad():
        shared = network.head_inputs(*example.inputs)
    features: tuple[TensorSpec, ...] = ()
    stages = []
    head_specs = example.specs
    if network.trunk is not None:
        features = (_features_spec(example, shared[0]),)
        trunk_weights = {name: masks.get(name) for name in covered if name.startswith("trunk.")}
        stages.append(
            _export("trunk", network.trunk, example.inputs, example.specs, FEATURES, features[0], trunk_weights)
        )
        context = [spec for spec in example.specs if spec.name in network.context_names]
        head_specs = (*features, *context)
    for index, head in enumerate(network.heads):
        prefix = f"heads.{index}."
        weights = {name: masks.get(name) for name in covered if name.startswith(prefix)}
        logits = TensorSpec(name="logits", dtype="float32", shape=("batch", 2))
        stages.append(_export(prefix[:-1], head, shared, head_specs, "logits", logits, weights))
    return stages, features


def _features_spec(example: Example, features: Tensor) -> TensorSpec:
    """Axes of the features: the batch, the tokens where the model inputs have tokens, and fixed sizes."""
    has_tokens = any("tokens" in spec.shape for spec in example.specs)
    shape = ("batch", *(("tokens",) if has_tokens else ()), *features.shape[2 if has_tokens else 1 :])
    return TensorSpec(name=FEATURES, dtype="float32", shape=shape)


def _export(
    prefix: str,
    module: nn.Module,
    inputs: Sequence[Tensor],
    specs: Sequence[TensorSpec],
    output: str,
    output_spec: TensorSpec,
    masks: dict[str, Tensor | None],
) -> ExportedStage:
    """Export one stage; `masks` holds the covered weights of the network that lie in it, by full name."""
    dynamic = {
        spec.name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in (*specs, output_spec)
    }
    model = trace(module, inputs, [spec.name for spec in specs], [output], dynamic)
    own_weights(model)
    permutations = transpose_weights(model)
    fold_norms(model)
    weights = []
    for full_name, mask in masks.items():
        name = full_name.removeprefix(f"{prefix}.")
        array = None if mask is None else mask.numpy()
        if array is not None and name in permutations:
            array = array.transpose(permutations[name])
        weights.append(Weight(name, array))
    file = f"{prefix.replace('.', '_').replace('heads', 'head')}.onnx"
    _require_masked(model, file, weights)
    make_sparse(model, weights)
    check_graph(model, file)
    layers = tuple(_audit(model, file, weights))
    read = {tensor.name for tensor in model.graph.input}
    kept = {name: int(mask.sum()) for name, mask in masks.items() if mask is not None}
    macs = module_macs(module, inputs, kept, prefix=f"{prefix}.")
    stage = Stage(
        file=file,
        inputs=tuple(spec.name for spec in specs if spec.name in read),
        outputs=(output,),
        dense_macs=macs.dense,
        effective_macs=macs.effective,
        activation_macs=macs.activation,
    )
    return ExportedStage(stage, layers, model)


def _require_masked(model: onnx.ModelProto, file: str, weights: Sequence[Weight]) -> None:
    """Raise ExportRefused for a covered weight that is missing, or that is not zero outside its mask."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for weight in weights:
        if weight.name not in arrays:
            raise ExportRefused(f"{file}: the weight {weight.name} is not in the graph under its name.")
        outside = 0 if weight.mask is None else int(np.count_nonzero(arrays[weight.name][~weight.mask]))
        if outside:
            raise ExportRefused(f"{file}: {weight.name} has {outside} non-zero values outside its mask.")


def _audit(model: onnx.ModelProto, file: str, weights: Sequence[Weight]) -> list[LayerSparsity]:
    """Describe the covered weights as they lie in the graph. Raises ExportRefused when entries are not the mask's."""
    stored = stored_weights(model)
    layers = []
    for weight in weights:
        found = stored[weight.name]
        size = math.prod(found.shape)
        kept = size if weight.mask is None else int(weight.mask.sum())
        if found.sparse and found.entries != kept:
            raise ExportRefused(f"{file}: {weight.name} holds {found.entries} entries, its mask keeps {kept}.")
        layers.append(
            LayerSparsity(
                name=weight.name, stage=file, shape=found.shape, weights=size, kept=kept, nonzero=found.nonzero,
                masked=weight.mask is not None,
            )
        )  # fmt: skip
    return layers
