"""From a network to an artifact: graphs, reference inputs, manifest; kept only if its logits are the network's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from torch import Tensor

from export.errors import ExportRefused
from export.stages import Example, export_stages
from runtime.artifact import Artifact, sha256_of
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.files import atomic_folder
from runtime.manifest import (
    MANIFEST,
    REFERENCE,
    Calibration,
    EarlyExit,
    FileEntry,
    ImagePreprocessing,
    Manifest,
    Metrics,
    Provenance,
    Sparsity,
    TensorSpec,
    TextPreprocessing,
)
from runtime.parity import heads_parity
from runtime.preprocess import make_preprocessor
from runtime.vote import Vote
from training.models.multihead import MultiHeadNetwork

REFERENCE_ROWS = 32
REFERENCE_SEED = 20250517


@dataclass(frozen=True, kw_only=True)
class ArtifactDescription:
    """What a manifest says beyond what follows from the network itself."""

    name: str
    version: str = "1"
    description: str = ""
    labels: tuple[str, ...]
    preprocessing: ImagePreprocessing | TextPreprocessing
    tokenizer: str | None = None
    """Content of the tokenizer's file (text)."""
    vote: Vote = "probabilities"
    calibration: Calibration
    early_exit: EarlyExit
    evaluation: tuple[Metrics, ...] = ()
    provenance: Provenance


def write_artifact(
    folder: Path,
    network: MultiHeadNetwork,
    masks: Mapping[str, Tensor],
    description: ArtifactDescription,
    *,
    embeddings: bool = False,
    genuine: Mapping[str, tuple[Tensor, ...]] | None = None,
) -> Manifest:
    """Write a network in evaluation mode as the artifact `folder`, which must not exist; return its manifest.

    `masks` holds the masks by weight name, layers without a mask left out; `embeddings` says whether the sparsity
    budget covers token embeddings. Parity with PyTorch is required on the synthetic reference inputs and on the
    `genuine` ones, which are model inputs by what they are called in errors. Raises ExportRefused, and leaves nothing
    behind, when the files would not be what the network is.
    """
    preprocessing = description.preprocessing
    vocabulary = 0
    with atomic_folder(folder) as partial:
        if isinstance(preprocessing, TextPreprocessing):
            if description.tokenizer is None:
                raise ValueError(f"{description.name} reads texts: give its tokenizer")
            (partial / preprocessing.tokenizer).write_text(description.tokenizer, encoding="utf-8")
            vocabulary = Tokenizer.from_str(description.tokenizer).get_vocab_size()
        specs = make_preprocessor(preprocessing, partial).input_specs()
        example = _synthetic(preprocessing, specs, vocabulary, rows=2, seed=REFERENCE_SEED + 1)
        stages, features = export_stages(network, dict(masks), example, embeddings=embeddings)
        for stage in stages:
            (partial / stage.stage.file).write_bytes(stage.model.SerializeToString(deterministic=True))
        reference = _synthetic(preprocessing, specs, vocabulary, rows=REFERENCE_ROWS, seed=REFERENCE_SEED)
        save_file(_reference_tensors(network, reference), partial / REFERENCE)
        layers = tuple(layer for stage in stages for layer in stage.layers)
        manifest = Manifest(
            name=description.name,
            version=description.version,
            modality=preprocessing.kind,
            description=description.description,
            inputs=specs,
            preprocessing=preprocessing,
            features=features,
            labels=description.labels,
            trunk=stages[0].stage if features else None,
            heads=tuple(stage.stage for stage in stages[1 if features else 0 :]),
            precision="fp32",
            vote=description.vote,
            calibration=description.calibration,
            early_exit=description.early_exit,
            sparsity=Sparsity(
                layers=layers,
                weights=sum(layer.weights for layer in layers),
                kept=sum(layer.kept for layer in layers),
                nonzero=sum(layer.nonzero for layer in layers),
            ),
            evaluation=description.evaluation,
            provenance=description.provenance,
            files={
                path.name: FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
                for path in sorted(partial.iterdir())
            },
        )
        (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        _require_parity(Artifact.open(partial), network, {"reference": reference.inputs, **(genuine or {})})
    return manifest


def _synthetic(
    preprocessing: ImagePreprocessing | TextPreprocessing,
    specs: tuple[TensorSpec, ...],
    vocabulary: int,
    *,
    rows: int,
    seed: int,
) -> Example:
    """Synthetic model inputs: normal pixels, or uniform token ids of every length up to the longest."""
    generator = np.random.default_rng(seed)
    arrays: list[NDArray[np.generic]]
    if isinstance(preprocessing, TextPreprocessing):
        tokens = preprocessing.lengths[-1]
        lengths = np.linspace(1, tokens, rows).round().astype(int)
        mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        arrays = [generator.integers(0, vocabulary, size=(rows, tokens)) * mask, mask]
    else:
        shape = [size for size in specs[0].shape if isinstance(size, int)]
        arrays = [generator.standard_normal((rows, *shape), dtype=np.float32)]
    return Example(tuple(torch.from_numpy(array) for array in arrays), specs)


def _reference_tensors(network: MultiHeadNetwork, example: Example) -> dict[str, NDArray[np.generic]]:
    """Inputs and PyTorch logits by the names that `Artifact.reference` documents."""
    with torch.inference_mode():
        logits = network(*example.inputs)
    tensors: dict[str, NDArray[np.generic]] = {
        f"input.{spec.name}": tensor.numpy() for spec, tensor in zip(example.specs, example.inputs, strict=True)
    }
    return tensors | {f"logits.{head}": np.ascontiguousarray(values.numpy()) for head, values in enumerate(logits)}


def _require_parity(artifact: Artifact, network: MultiHeadNetwork, inputs: Mapping[str, tuple[Tensor, ...]]) -> None:
    """Raise ExportRefused unless ONNX Runtime gives PyTorch's logits from the written files."""
    engine = load_engine(artifact, "onnxruntime", EngineOptions(cores=1))
    names = [spec.name for spec in artifact.manifest.inputs]
    for what, tensors in inputs.items():
        with torch.inference_mode():
            expected = network(*tensors).numpy()
        arrays = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        for head, parity in heads_parity(engine, arrays, list(expected)):
            if not parity.holds:
                raise ExportRefused(
                    f"Head {head} differs from PyTorch on the {what}: by {parity.worst:.2e} where {parity.allowed:.2e} "
                    f"is allowed, with {parity.flips} changed labels."
                )
