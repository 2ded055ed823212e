"""The verb `export`: checkpoint -> artifact, artifact -> one ONNX file, or both in one go.

neurotrails export runs/fashion-mnist exports/fashion-mnist
neurotrails export runs/fashion-mnist exports/fashion-mnist-int8 --precision int8
neurotrails export exports/fashion-mnist --fused fashion-mnist.onnx
neurotrails export runs/fashion-mnist exports/fashion-mnist --fused fashion-mnist.onnx
"""

import sys
from pathlib import Path
from typing import Literal

from export.errors import ExportMisused, TrainingNotInstalled
from export.fused import require_new, write_fused
from runtime.artifact import Artifact


def export(
    source: str,
    artifact: str | None = None,
    *,
    fused: str | None = None,
    name: str | None = None,
    version: str | None = None,
    description: str | None = None,
    vote: Literal["probabilities", "logits"] | None = None,
    networks: tuple[str, ...] = (),
    precision: Literal["fp32", "int8"] = "fp32",
    accept_loss: bool = False,
) -> None:
    """Export a checkpoint as an artifact; fuse an artifact into one ONNX file.

    The fused file is standard ONNX and runs in plain ONNX Runtime. It takes the tensors that the artifact takes
    (`neurotrails inspect` lists them: normalized float32 images, or int64 token ids and mask) and gives `probabilities`
    [batch, classes], the calibrated vote of all heads, and `logits_0`, `logits_1`, ... [batch, classes] of each head in
    voting order, all float32. Its metadata hold labels and preprocessing. Fusing needs no PyTorch.

    Args:
        source: A run folder (its best checkpoint is taken) or a checkpoint folder; to fuse only, an artifact folder.
        artifact: Artifact folder to write; it must not exist. Leave it out where the source is an artifact.
        fused: ONNX file to write; it must not exist.
        name: Name of the artifact. Default: the run's name.
        version: Version of the artifact. Default: 1, or 1-int8.
        description: One sentence on what the model does.
        vote: What is averaged over the heads. Default: probabilities.
        networks: Python files that register networks of your own, for `network: {kind: custom, name: ...}`.

        precision: int8 quantizes convolutions and linear layers; ranges and calibration come from the calibrate part.
        accept_loss: Write an int8 artifact even where it loses more than 0.5 points of accuracy on the report part.

    Raises:
        AlreadyExists: The artifact or the file exists.
        ArtifactError: The artifact to fuse is not what it says.
        CheckpointError: The checkpoint cannot be read.
        ExportMisused: The arguments do not go together.
        ExportRefused: What was to be written would not be what the source is.
        TrainingNotInstalled: PyTorch is missing, which a checkpoint needs.
    """
    if artifact is None:
        if fused is None:
            raise ExportMisused(
                f"Say what to write from {source}: an artifact folder if it is a checkpoint, --fused FILE if it is "
                "an artifact."
            )
        described: dict[str, object] = {
            "name": name,
            "version": version,
            "description": description,
            "vote": vote,
            "networks": networks,
        }
        described |= {"precision": None if precision == "fp32" else precision, "accept-loss": accept_loss or None}
        given = [f"--{option}" for option, value in described.items() if value not in (None, ())]
        if given:
            raise ExportMisused(
                f"{' '.join(given)} cannot change the artifact {source}, which is fused as it is. Name a checkpoint "
                "and the artifact folder to write."
            )
    if accept_loss and precision == "fp32":
        raise ExportMisused("--accept-loss is about int8: say --precision int8 with it, or leave it out.")
    if fused is not None:
        require_new(Path(fused), Path(artifact or source))
    if artifact is not None:
        try:
            # Here, so that fusing needs no PyTorch.
            from export.checkpoint import export_checkpoint
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] in ("export", "training", "runtime"):
                raise
            raise TrainingNotInstalled(
                f"Exporting a checkpoint needs {error.name}: pip install 'neurotrails[train]'. Fusing an artifact "
                "does not."
            ) from error
        export_checkpoint(
            source,
            artifact,
            name=name,
            version=version or ("1" if precision == "fp32" else f"1-{precision}"),
            description=description or "",
            vote=vote or "probabilities",
            networks=networks,
            precision=precision,
            accept_loss=accept_loss,
        )
    if fused is not None:
        opened = Artifact.open(artifact or source)
        size = write_fused(opened, Path(fused)) / 2**20
        print(f"{fused}: {len(opened.manifest.heads)} heads and their vote, {size:.1f} MiB", file=sys.stderr)
