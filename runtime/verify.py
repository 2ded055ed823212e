"""The verb `verify`: is an artifact what its manifest says, and does every engine compute what PyTorch computed?

neurotrails verify models/fashion-mnist
neurotrails verify models/newsgroups --engine onnxruntime
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runtime.artifact import Artifact
from runtime.cores import core_budget
from runtime.engines import engine_class, installed_engines
from runtime.engines.base import Engine, EngineOptions
from runtime.errors import ArtifactError, EngineError, EngineNotInstalled
from runtime.graph import stored_weights
from runtime.graph_sizes import load_stages
from runtime.manifest import LayerSparsity, TensorSpec, TextPreprocessing
from runtime.parity import LOGITS, QUANTIZED_LOGITS, Parity, heads_parity
from runtime.preprocess import Batch

MAX_REFERENCE_ROWS = 1024
BATCH_SIZES = (1, 16)
"""One row at a time, and several, run different code in the engines."""


def verify(artifact: str, *, engine: list[str] | None = None, cores: int | None = None) -> None:
    """Check an artifact: hashes, schema, graphs, counts of weights, and the logits of every engine.

    The logits are compared with those that were stored for the artifact's reference inputs when it was exported, in
    each precision that an engine can execute, by the rule for that precision: those of PyTorch or, for an int8
    artifact, those of its graphs with each operator computed as it stands.

    Args:
        artifact: Folder of the artifact.
        engine: Engine to check; can be given several times. Default: all that are installed.
        cores: Cores to compute on. Default: all that this process may use.

    Raises:
        ArtifactError: The artifact is not what it says.
        EngineError: An engine cannot run it, or computes something else.
    """
    opened = Artifact.open(artifact)
    manifest = opened.manifest
    size = sum(entry.bytes for entry in manifest.files.values())
    _passed("files", f"{len(manifest.files)} files, {size:,} bytes: sizes and sha256 are the manifest's")
    sparsity = manifest.sparsity
    check_counts(opened)
    _passed("graphs", f"{len(manifest.stages)} graphs are valid ONNX and hold nothing unsafe")
    _passed(
        "weights",
        f"{len(sparsity.layers)} layers counted: {sparsity.kept:,} of {sparsity.weights:,} kept "
        f"(density {sparsity.density:.4f}), {sparsity.nonzero:,} not zero, as the manifest says",
    )
    inputs, logits = read_reference(opened)
    options = EngineOptions(cores=core_budget().cores if cores is None else cores, batch_sizes=BATCH_SIZES)
    for name, found in _chosen(engine).items():
        if isinstance(found, EngineNotInstalled):
            print(f"skip  {name}: not installed")
            continue
        precisions = found.precisions.get(manifest.precision, ())
        if not precisions and engine is None:
            print(f"skip  {name}: does not execute {manifest.precision}")
            continue
        for precision in precisions or (None,):
            loaded = found(opened, replace(options, precision=precision))
            try:
                _check_engine(loaded, inputs, logits)
            finally:
                loaded.close()


def check_counts(artifact: Artifact) -> None:
    """Check every graph and count its weights. Raises ArtifactError where the manifest says something else."""
    layers = artifact.manifest.sparsity.layers
    for file, model in load_stages(artifact).items():
        weights = stored_weights(model)
        for layer in layers:
            if layer.stage != file:
                continue
            if layer.name not in weights:
                raise ArtifactError(f"{artifact.folder}: {file} holds no weight {layer.name!r}. Export it again.")
            found = weights[layer.name]
            stored = {"shape": found.shape, "nonzero": found.nonzero}
            if found.sparse:
                stored["kept"] = found.entries
            _require_same(artifact, layer, stored)


def read_reference(artifact: Artifact) -> tuple[Batch, list[NDArray[np.float32]]]:
    """Reference inputs by name, and the logits [rows, classes] of each head for them. Raises ArtifactError.

    The logits are PyTorch's; of an int8 artifact, those of its own graphs, each operator computed as it stands.
    """
    manifest = artifact.manifest
    tensors = artifact.reference()
    inputs = {spec.name: f"input.{spec.name}" for spec in manifest.inputs}
    kinds = [QUANTIZED_LOGITS, LOGITS] if manifest.precision == "int8" else [LOGITS]
    of_kinds = [[kind.format(index) for index in range(len(manifest.heads))] for kind in kinds]
    heads, every = of_kinds[0], [name for names in of_kinds for name in names]
    expected = {*inputs.values(), *every}
    if set(tensors) != expected:
        raise ArtifactError(
            f"{artifact.folder}: reference.safetensors must hold {sorted(expected)}, not {sorted(tensors)}."
        )
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise ArtifactError(f"{artifact.folder}: reference.safetensors: {name} holds values that are not finite.")
    for spec in manifest.inputs:
        _check_reference_input(artifact, spec, tensors[inputs[spec.name]])
    if any(tensors[name].dtype != np.float32 for name in every):
        raise ArtifactError(f"{artifact.folder}: reference.safetensors must hold logits of type float32.")
    logits = [tensors[name].astype(np.float32) for name in heads]
    shapes = {tensors[name].shape for name in every}
    rows = {len(tensors[name]) for name in inputs.values()}
    if len(rows) != 1 or rows == {0} or shapes != {(next(iter(rows)), len(manifest.labels))}:
        raise ArtifactError(f"{artifact.folder}: reference.safetensors holds logits of shape {sorted(shapes)}.")
    return {name: tensors[key] for name, key in inputs.items()}, logits


def _check_reference_input(artifact: Artifact, spec: TensorSpec, tensor: NDArray[np.generic]) -> None:
    """Raise ArtifactError unless a reference input has the type and the sizes of its TensorSpec."""
    preprocessing = artifact.manifest.preprocessing
    lengths = preprocessing.lengths if isinstance(preprocessing, TextPreprocessing) else ()
    symbols = {"batch": range(MAX_REFERENCE_ROWS + 1), "tokens": lengths}
    allowed = [symbols[size] if isinstance(size, str) else (size,) for size in spec.shape]
    fits = tensor.dtype == np.dtype(spec.dtype) and tensor.ndim == len(allowed)
    fits = fits and all(found in sizes for found, sizes in zip(tensor.shape, allowed, strict=True))
    if not fits:
        raise ArtifactError(
            f"{artifact.folder}: reference.safetensors: input.{spec.name} is {tensor.dtype} {list(tensor.shape)}, the "
            f"manifest says {spec.dtype} {list(spec.shape)}."
        )


def at_length(artifact: Artifact, inputs: Batch, tokens: int) -> tuple[Batch, NDArray[np.intp]]:
    """Cut or pad text inputs to `tokens`; returns the rows that are short enough for it, and their indices."""
    preprocessing = artifact.manifest.preprocessing
    assert isinstance(preprocessing, TextPreprocessing)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    rows = np.flatnonzero(mask.sum(axis=1) <= tokens)
    longer = max(0, tokens - ids.shape[1])
    cut = {
        "input_ids": np.pad(ids[rows, :tokens], ((0, 0), (0, longer)), constant_values=preprocessing.pad_id),
        "attention_mask": np.pad(mask[rows, :tokens], ((0, 0), (0, longer))),
    }
    return cut, rows


def _chosen(names: list[str] | None) -> dict[str, type[Engine] | EngineNotInstalled]:
    """Engines to check by name; one that is named must be installed."""
    return installed_engines() if not names else {name: engine_class(name) for name in names}


def _check_engine(engine: Engine, inputs: Batch, logits: list[NDArray[np.float32]]) -> None:
    """Compare batches, single rows and, for texts, all lengths with the reference."""
    rows = len(logits[0])
    _check_logits(engine, f"{rows} rows", inputs, logits)
    first = {name: tensor[:1] for name, tensor in inputs.items()}
    _check_logits(engine, "1 row", first, [values[:1] for values in logits])
    for tokens in engine.lengths:
        cut, short = at_length(engine.artifact, inputs, tokens)
        if len(short):
            what = f"{len(short)} rows of {tokens} tokens"
            _check_logits(engine, what, cut, [values[short] for values in logits])


def _check_logits(engine: Engine, what: str, inputs: Batch, logits: list[NDArray[np.float32]]) -> None:
    parities: list[Parity] = []
    for head, parity in heads_parity(engine, inputs, logits):
        if not parity.holds:
            raise EngineError(
                f"{engine.name} {engine.version} computes other logits than PyTorch: head {head}, {what}: off by "
                f"{parity.worst:.3g} where {parity.allowed:.3g} is allowed, {parity.flips} labels changed. "
                "Do not serve this artifact with this engine."
            )
        parities.append(parity)
    worst = max(parity.worst for parity in parities)
    allowed = min(parity.allowed for parity in parities)
    _passed(
        f"{engine.name} {engine.version} {engine.precision}",
        f"{what}, {len(logits)} heads: off by {worst:.2g} of {allowed:.2g}",
    )


def _require_same(artifact: Artifact, layer: LayerSparsity, stored: dict[str, object]) -> None:
    for what, value in stored.items():
        if getattr(layer, what) != value:
            raise ArtifactError(
                f"{artifact.folder}: {layer.stage}: {layer.name} has {what} {value} in the file, the manifest says "
                f"{getattr(layer, what)}. Export it again."
            )


def _passed(check: str, details: str) -> None:
    print(f"ok    {check}: {details}")
