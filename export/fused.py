"""Trunk, heads, vote and calibration of an artifact as one standard ONNX graph. Needs no PyTorch.

model = fuse(Artifact.open("models/fashion-mnist"))
onnxruntime.InferenceSession(model.SerializeToString()).run(["probabilities"], {"image": images})

Names that stay: the inputs are the artifact's; the outputs are `probabilities` and `logits_0`, `logits_1`, ..., all
float32 [batch, classes], heads in voting order. Metadata: `name`, `version`, `modality`, `labels` (JSON),
`preprocessing` (JSON), `precision`, `vote`, `temperature`, `artifact_sha256`. The names of all other tensors begin with
their part: `trunk/`, `head_0/`, ..., `vote/`, as in `head_0/blocks.0.conv1.weight`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.errors import ExportMisused, ExportRefused
from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.engines.onnxruntime import open_session
from runtime.files import already_exists, atomic_write
from runtime.graph import OPSET, check_graph
from runtime.graph_sizes import load_stages
from runtime.manifest import Manifest, TensorSpec
from runtime.parity import RELATIVE_TOLERANCE, RULES
from runtime.predictor import Predictor
from runtime.verify import read_reference

PROBABILITIES = "probabilities"
LOGITS = "logits_{}"
TRUNK, HEAD, VOTE = "trunk/", "head_{}/", "vote/"
"""What the names of all other tensors and nodes begin with."""

PARITY_BATCH = 16


def require_new(path: Path, artifact: Path) -> None:
    """Raise unless the fused file `path` is new (AlreadyExists) and outside the artifact (ExportMisused)."""
    if path.exists():
        raise already_exists(path)
    if path.resolve().is_relative_to(artifact.resolve()):
        raise ExportMisused(f"{path} lies inside the artifact {artifact}, which is immutable. Choose another folder.")


def write_fused(artifact: Artifact, path: Path) -> int:
    """Write the fused graph as the new file `path`; return its size in bytes.

    Raises AlreadyExists, ArtifactError, and ExportRefused where ONNX Runtime does not give from the graph what the
    predictor gives from the artifact; nothing is written then.
    """
    require_new(path, artifact.folder)
    content = fuse(artifact).SerializeToString(deterministic=True)
    _require_parity(artifact, content)
    atomic_write(path, content, replace=False)
    return len(content)


def fuse(artifact: Artifact) -> onnx.ModelProto:
    """Join the graphs of an artifact and the calibrated vote of all heads. Raises ArtifactError for unsafe graphs."""
    manifest = artifact.manifest
    joined = onnx.GraphProto(name=manifest.name)
    joined.input.extend(_value_info(spec) for spec in manifest.inputs)
    graphs = load_stages(artifact)
    features = {tensor.name: TRUNK + tensor.name for tensor in manifest.features}
    if manifest.trunk:
        inputs = {name: name for name in manifest.trunk.inputs}
        _append(joined, graphs[manifest.trunk.file].graph, TRUNK, inputs | features)
    for index, head in enumerate(manifest.heads):
        inputs = {name: features.get(name, name) for name in head.inputs}
        outputs = {head.outputs[0]: LOGITS.format(index)}
        _append(joined, graphs[head.file].graph, HEAD.format(index), inputs | outputs)
    heads = [LOGITS.format(index) for index in range(len(manifest.heads))]
    joined.node.extend(_vote(manifest, heads))
    classes = len(manifest.labels)
    joined.output.extend(
        _value_info(TensorSpec(name=name, dtype="float32", shape=("batch", classes)))
        for name in (PROBABILITIES, *heads)
    )
    ir_version = max(model.ir_version for model in graphs.values())
    model = helper.make_model(joined, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=ir_version)
    model.producer_name, model.doc_string = "neurotrails", manifest.description
    helper.set_model_props(model, _metadata(artifact))
    check_graph(model, f"{artifact.folder} as one graph")
    return model


def _append(joined: onnx.GraphProto, graph: onnx.GraphProto, prefix: str, outer: Mapping[str, str]) -> None:
    """Append a stage; its tensors are called by `outer`, or else by the prefix."""

    def rename(name: str) -> str:
        return outer.get(name, prefix + name) if name else name  # no name: an optional input that is left out

    for tensor in graph.initializer:
        added = joined.initializer.add()
        added.CopyFrom(tensor)
        added.name = rename(tensor.name)
    for node in graph.node:
        copy = joined.node.add()
        copy.CopyFrom(node)
        copy.name = prefix + node.name if node.name else ""
        copy.input[:] = [rename(name) for name in node.input]
        copy.output[:] = [rename(name) for name in node.output]


def _vote(manifest: Manifest, heads: list[str]) -> Iterator[onnx.NodeProto]:
    """Nodes of `runtime.vote` for all heads: p is proportional to pooled^(1/T).

    They compute softmax(log(pooled) / T) up to a constant for each row, which softmax does not see. In log space no
    probability vanishes in float32, so high temperatures are exact too.
    """

    def constant(name: str, value: NDArray[np.generic]) -> onnx.NodeProto:
        tensor = numpy_helper.from_array(value, VOTE + name)
        return helper.make_node("Constant", [], [VOTE + name], name=f"{VOTE}{name}.constant", value=tensor)

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [output], name=f"{VOTE}{operator}_{output}", **attributes)

    yield constant("axis", np.array([0], dtype=np.int64))
    yield constant("temperature", np.array(manifest.calibration.temperatures[-1], dtype=np.float32))
    for index, logits in enumerate(heads):
        yield node("Unsqueeze", [logits, f"{VOTE}axis"], f"{VOTE}head_{index}")
    yield node("Concat", [f"{VOTE}head_{index}" for index in range(len(heads))], f"{VOTE}heads", axis=0)
    if manifest.vote == "probabilities":
        yield node("LogSoftmax", [f"{VOTE}heads"], f"{VOTE}log_probabilities", axis=-1)
        yield node("ReduceLogSumExp", [f"{VOTE}log_probabilities"], f"{VOTE}log_pooled", axes=[0], keepdims=0)
    else:
        yield node("ReduceMean", [f"{VOTE}heads"], f"{VOTE}log_pooled", axes=[0], keepdims=0)
    yield node("Div", [f"{VOTE}log_pooled", f"{VOTE}temperature"], f"{VOTE}tempered")
    yield node("Softmax", [f"{VOTE}tempered"], PROBABILITIES, axis=-1)


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    info: onnx.ValueInfoProto = helper.make_tensor_value_info(spec.name, dtype, spec.shape)
    return info


def _metadata(artifact: Artifact) -> dict[str, str]:
    manifest = artifact.manifest
    return {
        "artifact_sha256": artifact.sha256,
        "labels": json.dumps(manifest.labels, ensure_ascii=False),
        "modality": manifest.modality,
        "name": manifest.name,
        "precision": manifest.precision,
        "preprocessing": manifest.preprocessing.model_dump_json(),
        "temperature": repr(manifest.calibration.temperatures[-1]),
        "version": manifest.version,
        "vote": manifest.vote,
    }


def _require_parity(artifact: Artifact, content: bytes) -> None:
    """Raise ExportRefused unless the fused graph gives the logits of the artifact's own graphs, and their vote.

    In int8 logits may differ by what engines may differ by, since joined graphs are optimized in other ways.
    """
    heads = len(artifact.manifest.heads)
    inputs, _ = read_reference(artifact)
    options = EngineOptions(cores=1, batch_sizes=(PARITY_BATCH,))
    engine = load_engine(artifact, "onnxruntime", options)
    expected = np.stack(engine.logits(inputs, heads))
    engine.close()
    names = [PROBABILITIES, *(LOGITS.format(index) for index in range(heads))]
    session, _ = open_session(content, cores=1)
    probabilities, *logits = session.run(names, inputs)
    vote = Predictor(artifact, engine).vote(np.stack(logits))
    for head, (reference, found) in enumerate(zip(expected, logits, strict=True)):
        parity = RULES[artifact.manifest.precision](reference, found)
        if not parity.holds:
            raise ExportRefused(
                f"Fused, head {head} differs from the artifact {artifact.folder} by {parity.worst:.2e} where "
                f"{parity.allowed:.2e} is allowed."
            )
    worst = float(np.abs(vote - probabilities).max())
    if not worst <= RELATIVE_TOLERANCE:
        raise ExportRefused(
            f"Fused, the vote differs from that of the artifact {artifact.folder} by {worst:.2e} where "
            f"{RELATIVE_TOLERANCE:.0e} is allowed."
        )
