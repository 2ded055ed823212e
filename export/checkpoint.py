"""From a checkpoint to an artifact, which is written only if it is what the checkpoint is.

export_checkpoint("runs/fashion-mnist", "models/fashion-mnist")
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from export.artifact import ArtifactDescription, write_artifact
from export.quantize.artifact import Evidence, write_int8_artifact
from runtime.artifact import Artifact
from runtime.cores import core_budget
from runtime.files import already_exists
from runtime.manifest import Manifest, Metrics, Provenance, TextPreprocessing
from runtime.vote import Vote
from training.batches import Batches
from training.calibration import calibrate, early_exit_curve
from training.checkpoint import Checkpoint
from training.evaluate import collect_logits
from training.metrics import measure
from training.models.multihead import MultiHeadNetwork
from training.models.registry import load_networks
from training.preparation import EVALUATION_BATCH, held_out_parts

PARITY_ROWS = 256
"""Genuine held-out rows that are compared too, beside the synthetic reference."""


def export_checkpoint(
    checkpoint: str,
    artifact: str,
    *,
    name: str | None = None,
    version: str = "1",
    description: str = "",
    vote: Vote = "probabilities",
    networks: tuple[str, ...] = (),
    precision: Literal["fp32", "int8"] = "fp32",
    accept_loss: bool = False,
) -> None:
    """Export a checkpoint as the artifact folder `artifact`, which must not exist; the rest is as the verb says it.

    An int8 artifact is made from the fp32 artifact, which is thrown away. Raises CheckpointError, AlreadyExists and
    ExportRefused, and leaves nothing behind then.
    """
    folder = Path(artifact)
    if folder.exists():
        raise already_exists(folder)
    load_networks(networks)
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
    order = list(calibration.voting_order)
    evaluation: list[Metrics] = [
        measure(logits[part][order], targets[part], vote=vote, split=part, temperature=calibration.temperatures[-1])
        for part in logits
        if part != "calibrate"
    ]
    masks = reorder_heads(network, masks, order)
    genuine = next(Batches(parts["calibrate"], preprocessor, PARITY_ROWS).in_order())
    told = ArtifactDescription(
        name=name or run.config.name,
        version=version,
        description=description,
        labels=run.labels,
        preprocessing=run.preprocessing,
        tokenizer=source.tokenizer.read_text(encoding="utf-8")
        if isinstance(run.preprocessing, TextPreprocessing)
        else None,
        vote=vote,
        calibration=calibration,
        early_exit=exits,
        evaluation=tuple(evaluation),
        provenance=_provenance(source),
    )

    def write_fp32(target: Path) -> Manifest:
        return write_artifact(
            target,
            network,
            masks,
            told,
            embeddings=run.config.sparsity.embeddings,
            genuine={"calibrate part": genuine.inputs},
        )

    if precision == "fp32":
        manifest = write_fp32(folder)
    else:
        evidence = Evidence(parts, preprocessor, {part: values[order] for part, values in logits.items()})
        with tempfile.TemporaryDirectory(prefix="neurotrails-") as passing:
            write_fp32(Path(passing) / "fp32")
            manifest = write_int8_artifact(
                Artifact.open(Path(passing) / "fp32"), folder, evidence,
                version=version, accept_loss=accept_loss, cores=core_budget().cores,
            )  # fmt: skip
    size = sum(entry.bytes for entry in manifest.files.values()) / 2**20
    test = manifest.evaluation[-1]
    print(
        f"{artifact}: {manifest.precision}, {len(manifest.heads)} heads, density {manifest.sparsity.density:.3f}, "
        f"{size:.1f} MiB, {test.split} accuracy {test.accuracy:.4f}",
        file=sys.stderr,
    )


def reorder_heads(network: MultiHeadNetwork, masks: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    """Put the heads of a network into `order`, its index of each; return the masks by their weights' new names."""
    network.heads = nn.ModuleList(network.heads[index] for index in order)
    places = {f"heads.{index}.": f"heads.{place}." for place, index in enumerate(order)}
    renamed = {}
    for name, mask in masks.items():
        prefix = next((prefix for prefix in places if name.startswith(prefix)), "")
        renamed[places.get(prefix, "") + name.removeprefix(prefix)] = mask
    return renamed


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
