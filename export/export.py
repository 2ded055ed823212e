"""The verb `export`: checkpoint -> artifact, written only if it is what the checkpoint is.

neurotrails export runs/fashion-mnist models/fashion-mnist
"""

import sys
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from export.errors import ExportRefused
from export.stages import Example, export_stages
from runtime.artifact import MANIFEST, Artifact, sha256_of
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.files import atomic_folder
from runtime.manifest import FileEntry, Manifest, Metrics, Provenance, Sparsity, TensorSpec, TextPreprocessing
from runtime.parity import compare
from training.batches import Batches
from training.calibration import calibrate, early_exit_curve
from training.checkpoint import Checkpoint, RunDescription
from training.config import TextEncoderConfig
from training.evaluate import collect_logits, measure
from training.models.multihead import MultiHeadNetwork
from training.train import EVALUATION_BATCH, held_out_parts

REFERENCE = "reference.safetensors"
REFERENCE_ROWS = 32
REFERENCE_SEED = 20250517
PARITY_ROWS = 256
"""Genuine held-out rows that are compared too, beside the synthetic reference."""


def export(
    checkpoint: str,
    artifact: str,
    *,
    name: str | None = None,
    version: str = "1",
    description: str = "",
    vote: Literal["probabilities", "logits"] = "probabilities",
) -> None:
    """Export a checkpoint as an artifact.

    Args:
        checkpoint: A run folder (its best checkpoint is taken) or a checkpoint folder.
        artifact: Folder to write; it must not exist.
        name: Name of the artifact; the run's name if not given.
        version: Version of the artifact.
        description: One sentence on what the model does.
        vote: What is averaged over the heads.
    """
    source = Checkpoint.open(checkpoint)
    run = source.description
    network, masks = source.network()
    parts, preprocessor = held_out_parts(source)
    logits, targets = {}, {}
    for part in ("calibrate", "report", *(["test"] if "test" in parts else [])):
        print(f"Evaluating on {part} ({len(parts[part]):,} examples)", file=sys.stderr)
        logits[part] = collect_logits(network, Batches(parts[part], preprocessor, EVALUATION_BATCH))
        targets[part] = parts[part].targets
    calibration = calibrate(logits["calibrate"], targets["calibrate"], vote=vote, split="calibrate")
    exits = early_exit_curve(logits["report"], targets["report"], calibration, vote=vote, split="report")
    evaluation: list[Metrics] = [
        measure(logits[part], targets[part], vote=vote, split=part, temperature=calibration.temperatures[-1])
        for part in logits
        if part != "calibrate"
    ]

    example = _example(run, preprocessor.input_specs(), rows=2, seed=REFERENCE_SEED + 1)
    stages, features = export_stages(network, masks, example, embeddings=run.config.sparsity.embeddings)
    layers = tuple(layer for stage in stages for layer in stage.layers)
    with atomic_folder(Path(artifact)) as folder:
        for stage in stages:
            (folder / stage.stage.file).write_bytes(stage.model.SerializeToString(deterministic=True))
        reference = _example(run, preprocessor.input_specs(), rows=REFERENCE_ROWS, seed=REFERENCE_SEED)
        save_file(_reference_tensors(network, reference), folder / REFERENCE)
        if isinstance(run.preprocessing, TextPreprocessing):
            (folder / run.preprocessing.tokenizer).write_bytes(source.tokenizer.read_bytes())
        manifest = Manifest(
            name=name or run.config.name,
            version=version,
            modality=run.preprocessing.kind,
            description=description,
            inputs=preprocessor.input_specs(),
            preprocessing=run.preprocessing,
            features=features,
            labels=run.labels,
            trunk=stages[0].stage if features else None,
            heads=tuple(stage.stage for stage in stages[1 if features else 0 :]),
            precision="fp32",
            vote=vote,
            calibration=calibration,
            early_exit=exits,
            sparsity=Sparsity(
                layers=layers,
                weights=sum(layer.weights for layer in layers),
                kept=sum(layer.kept for layer in layers),
                nonzero=sum(layer.nonzero for layer in layers),
            ),
            evaluation=tuple(evaluation),
            provenance=_provenance(source),
            files={
                path.name: FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
                for path in sorted(folder.iterdir())
            },
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        written = Artifact.open(folder)
        genuine = next(Batches(parts["calibrate"], preprocessor, PARITY_ROWS).in_order())
        _require_parity(written, network, {"reference": reference.inputs, "calibrate part": genuine.inputs})
    size = sum(entry.bytes for entry in manifest.files.values()) / 2**20
    test = evaluation[-1]
    print(
        f"{artifact}: {len(manifest.heads)} heads, density {manifest.sparsity.density:.3f}, {size:.1f} MiB, "
        f"{test.split} accuracy {test.accuracy:.4f}",
        file=sys.stderr,
    )


def _example(run: RunDescription, specs: tuple[TensorSpec, ...], *, rows: int, seed: int) -> Example:
    """Synthetic model inputs: normal pixels, or uniform token ids of every length up to the longest."""
    generator = np.random.default_rng(seed)
    arrays: list[NDArray[np.generic]]
    if isinstance(run.config.network, TextEncoderConfig):
        tokens = run.config.network.lengths[-1]
        lengths = np.linspace(1, tokens, rows).round().astype(int)
        mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        arrays = [generator.integers(0, run.config.network.vocabulary, size=(rows, tokens)) * mask, mask]
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


def _require_parity(artifact: Artifact, network: MultiHeadNetwork, inputs: dict[str, tuple[Tensor, ...]]) -> None:
    """Raise ExportRefused unless ONNX Runtime gives PyTorch's logits from the written files."""
    engine = load_engine(artifact, "onnxruntime", EngineOptions(cores=1))
    names = [spec.name for spec in artifact.manifest.inputs]
    for what, tensors in inputs.items():
        with torch.inference_mode():
            expected = network(*tensors).numpy()
        features = engine.trunk({name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})
        for head, reference in enumerate(expected):
            parity = compare(reference, engine.head(head, features))
            if not parity.holds:
                raise ExportRefused(
                    f"Head {head} differs from PyTorch on the {what}: by {parity.worst:.2e} where {parity.allowed:.2e} "
                    f"is allowed, with {parity.flips} changed labels."
                )


def _provenance(source: Checkpoint) -> Provenance:
    run = source.description
    return Provenance(
        config_sha256=run.config.sha256,
        code_version=run.code_version,
        command=run.command,
        seed=run.config.seed,
        data_source=f"{run.data_source} (sha256 {run.data_sha256})",
        steps=source.metrics["step"],
        packages={package: package_version(package) for package in ("numpy", "onnx", "onnxruntime", "torch")},
    )
