"""Runs the graphs of an artifact in ONNX Runtime, also before they are one: logits, and the tensors in between."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from runtime.artifact import Artifact
from runtime.engines.onnxruntime import open_session
from runtime.graph import load_graph
from runtime.manifest import Stage

Tensors = Mapping[str, NDArray[np.generic]]
Logits = NDArray[np.float32]
"""Logits of all heads, [H, N, K]."""


@dataclass(frozen=True)
class StageGraph:
    """One stage of a manifest with its graph."""

    stage: Stage
    model: onnx.ModelProto


@dataclass(frozen=True)
class Graphs:
    """Trunk (if any) and heads of one network, heads in voting order."""

    trunk: StageGraph | None
    heads: tuple[StageGraph, ...]

    @classmethod
    def of(cls, artifact: Artifact) -> "Graphs":
        """Read the graphs of an artifact. Raises ArtifactError for unsafe ones."""
        stages = [StageGraph(stage, load_graph(artifact.path(stage.file))) for stage in artifact.manifest.stages]
        return cls(stages.pop(0) if artifact.manifest.trunk else None, tuple(stages))

    @property
    def stages(self) -> tuple[StageGraph, ...]:
        """All of them, in order of execution."""
        return (*([self.trunk] if self.trunk else []), *self.heads)

    def with_models(self, models: Mapping[str, onnx.ModelProto]) -> "Graphs":
        """The same stages, with other graphs for some of their files."""
        stages = [replace(graph, model=models.get(graph.stage.file, graph.model)) for graph in self.stages]
        return Graphs(stages.pop(0) if self.trunk else None, tuple(stages))


class GraphRunner:
    """Trunk and heads as ONNX Runtime sessions, with all its optimizations or with none.

    `watched` names tensors by stage file: those that `observe` yields.
    """

    def __init__(
        self,
        graphs: Graphs,
        *,
        cores: int,
        optimized: bool = True,
        watched: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._graphs = graphs
        self._watched = watched or {}
        self._sessions = {}
        for graph in graphs.stages:
            model = _with_outputs(graph.model, self._watched.get(graph.stage.file, ()))
            self._sessions[graph.stage.file], _ = open_session(model.SerializeToString(), cores, optimized=optimized)

    def logits(self, inputs: Tensors) -> Logits:
        """Logits of all heads for one batch of model inputs."""
        tensors = dict(inputs)
        if self._graphs.trunk:
            tensors |= self._run(self._graphs.trunk.stage, tensors)
        heads = [self._run(head.stage, tensors)[head.stage.outputs[0]] for head in self._graphs.heads]
        return np.stack(heads).astype(np.float32, copy=False)

    def collect(self, batches: Iterable[Tensors]) -> Logits:
        """Logits of all heads for all rows of all batches."""
        return np.concatenate([self.logits(inputs) for inputs in batches], axis=1)

    def observe(self, inputs: Tensors) -> Iterator[tuple[str, str, NDArray[np.generic]]]:
        """Yield (stage file, tensor, its values) of all watched tensors for one batch of model inputs."""
        tensors = dict(inputs)
        for graph in self._graphs.stages:
            stage = graph.stage
            outputs = self._run(stage, tensors, self._watched.get(stage.file, ()))
            for name in self._watched.get(stage.file, ()):
                yield stage.file, name, outputs[name] if name in outputs else tensors[name]
            if graph is self._graphs.trunk:
                tensors |= {name: outputs[name] for name in stage.outputs}

    def _run(self, stage: Stage, tensors: Tensors, more: Sequence[str] = ()) -> dict[str, NDArray[np.generic]]:
        names = list(dict.fromkeys([*stage.outputs, *(name for name in more if name not in stage.inputs)]))
        values = self._sessions[stage.file].run(names, {name: tensors[name] for name in stage.inputs})
        return dict(zip(names, values, strict=True))


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy whose graph outputs hold `names` too, all of them float32; graph inputs among them are left out."""
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    for name in dict.fromkeys(names):
        if name not in known:
            wider.graph.output.add().CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return wider
