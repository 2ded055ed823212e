"""Which layers stay fp32: none, unless accuracy asks for it; then those whose quantization moves the logits most."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto
from tqdm import tqdm

from export.quantize.execution import GraphRunner, Graphs, StageGraph, Tensors
from export.quantize.qdq import Layer, quantizable, quantize
from export.quantize.ranges import Range

Ranges = Mapping[str, Mapping[str, Range]]
"""Ranges of activations by stage file and tensor."""


@dataclass(frozen=True)
class Sensitivity:
    """How much the logits move when this layer alone is quantized: mean squared change over their variance."""

    file: str
    layer: Layer
    effect: float


def quantize_graphs(graphs: Graphs, ranges: Ranges, kept: Sequence[Sensitivity] = ()) -> Graphs:
    """The QDQ form of all graphs, but for the layers `kept` in fp32."""
    models: dict[str, ModelProto] = {}
    for graph in graphs.stages:
        file = graph.stage.file
        keep = frozenset(found.layer.weight for found in kept if found.file == file)
        models[file] = quantize(graph.model, ranges[file], keep=keep)
    return graphs.with_models(models)


def measure_sensitivity(graphs: Graphs, ranges: Ranges, batches: Sequence[Tensors], *, cores: int) -> list[Sensitivity]:
    """The effect of each layer that can be quantized, the most sensitive first; among equals in order of execution."""
    expected = GraphRunner(graphs, cores=cores).collect(batches)
    variance = float(expected.var()) or 1.0
    layers = [(graph, layer) for graph in graphs.stages for layer in quantizable(graph.model)]
    found = []
    for graph, layer in tqdm(layers, desc="effect of each layer", leave=False, disable=None):
        logits = GraphRunner(_only(graphs, graph, layer, ranges), cores=cores).collect(batches)
        found.append(Sensitivity(graph.stage.file, layer, float(np.square(logits - expected).mean()) / variance))
    return sorted(found, key=lambda one: -one.effect)


def _only(graphs: Graphs, graph: StageGraph, layer: Layer, ranges: Ranges) -> Graphs:
    """The graphs with a single layer quantized."""
    others = frozenset(other.weight for other in quantizable(graph.model) if other.weight != layer.weight)
    model = quantize(graph.model, ranges[graph.stage.file], keep=others)
    return graphs.with_models({graph.stage.file: model})


def keep_the_most_sensitive(
    ranking: Sequence[Sensitivity], good_enough: Callable[[Sequence[Sensitivity]], bool]
) -> tuple[Sensitivity, ...]:
    """The shortest of the beginnings of 1, 2, 4, ... layers of the ranking that are good enough when they stay fp32.

    At most half of the layers, and all of those where even they do not suffice: what is left is the gate's to judge.
    """
    most = max(1, len(ranking) // 2)
    count = 1
    while count < most and not good_enough(ranking[:count]):
        count *= 2
    return tuple(ranking[: min(count, most)])
